"""Softmax attention."""
# B batch, N tokens, M query tokens, h num_heads, d head_dim

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def attention(qkv: Tensor, scale: float) -> Tensor:
    """[B, N, 3, h, d] -> [B, N, h * d]."""
    q, k, v = (x.transpose(1, 2) for x in qkv.unbind(2))
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).flatten(2)


def attend(q: Tensor, kv: Tensor, scale: float) -> Tensor:
    """Queries [B, M, h, d], kv [B, N, 2, h, d] -> [B, M, h * d]."""
    k, v = (x.transpose(1, 2) for x in kv.unbind(2))
    return F.scaled_dot_product_attention(q.transpose(1, 2), k, v, scale=scale).transpose(1, 2).flatten(2)
