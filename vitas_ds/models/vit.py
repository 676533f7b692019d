"""The plain vision transformer of one spec, which is retrained, evaluated and exported. Tensor names are timm's."""
# B batch, H height, W width, p patch_size, N tokens (class token first), D embed_dim, a = qkv_dim / 3

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vitas_ds.arch.spec import LayerSpec, SubnetSpec, check_spec
from vitas_ds.models.layers import attend, attention, drop_path, embed_patches, patchify
from vitas_ds.models.sliced import Linear, linear


class PatchEmbed(nn.Module):
    """Patch embedding with the weight shape of a convolution, [D, 3, p, p]."""

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, patch_size, patch_size)


class Attention(nn.Module):
    """Multi-head self-attention whose width is not embed_dim: [B, N, D] -> [B, N, D] through a channels."""

    def __init__(self, embed_dim: int, layer: LayerSpec) -> None:
        super().__init__()
        self.num_heads, self.scale = layer.num_heads, layer.softmax_scale
        self.qkv = Linear(embed_dim, layer.qkv_dim)
        self.proj = Linear(layer.attn_dim, embed_dim)

    def forward(self, x: Tensor, class_token_only: bool = False) -> Tensor:
        """[B, N, D] -> [B, N, D], or [B, 1, D] with ``class_token_only``."""
        if not class_token_only:
            return self.proj(attention(self.qkv(x), self.num_heads, self.scale))
        a = self.proj.in_features
        q = linear(x[:, :1], self.qkv.weight[:a], self.qkv.bias[:a])
        k, v = linear(x, self.qkv.weight[a:], self.qkv.bias[a:]).chunk(2, -1)
        return self.proj(attend(q, k, v, self.num_heads, self.scale))


class Mlp(nn.Module):
    """Two linear layers with GELU in between: [B, N, D] -> [B, N, D]."""

    def __init__(self, embed_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.fc1 = Linear(embed_dim, mlp_dim)
        self.fc2 = Linear(mlp_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block: [B, N, D] -> [B, N, D]."""

    def __init__(self, embed_dim: int, layer: LayerSpec, drop_path_rate: float) -> None:
        super().__init__()
        self.drop_path_rate = drop_path_rate
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.attn = Attention(embed_dim, layer)
        self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.mlp = Mlp(embed_dim, layer.mlp_dim)

    def forward(self, x: Tensor, class_token_only: bool = False) -> Tensor:
        """[B, N, D] -> [B, N, D], or [B, 1, D] with ``class_token_only``."""
        residual = x[:, :1] if class_token_only else x
        x = residual + drop_path(self.attn(self.norm1(x), class_token_only), self.drop_path_rate, self.training)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop_path_rate, self.training)


class VisionTransformer(nn.Module):
    """The network of a spec: ``images [B, 3, H, W] float -> logits [B, classes]``.

    ``drop_path_rate`` increases linearly from 0 at the first layer to the given value at the last layer. With
    ``class_token_only``, the last layer computes only the class token, as in ``Supernet``: fewer MACs than the cost of
    the spec, and equal logits up to rounding.

    Raises:
        UserError: The spec does not describe a valid network.
    """

    def __init__(
        self, spec: SubnetSpec, drop_path_rate: float = 0.0, grad_checkpointing: bool = False,
        class_token_only: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        check_spec(spec)
        self.spec, self.grad_checkpointing = spec.canonical(), grad_checkpointing
        self.class_token_only = class_token_only
        D = spec.embed_dim
        self.cls_token = nn.Parameter(torch.zeros(1, 1, D))
        self.pos_embed = nn.Parameter(torch.zeros(1, spec.num_patches + 1, D))
        self.patch_embed = PatchEmbed(spec.patch_size, D)
        rates = torch.linspace(
            0, drop_path_rate, spec.depth, device="cpu"
        ).tolist()  # on the CPU even under torch.device("meta")
        self.blocks = nn.ModuleList(Block(D, layer, rate) for layer, rate in zip(spec.active, rates, strict=True))
        self.norm = nn.LayerNorm(D, eps=spec.final_norm_eps)
        self.head = Linear(D, spec.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, classes]."""
        proj = self.patch_embed.proj
        x = patchify(images, self.spec.patch_size)
        x = embed_patches(x, proj.weight, proj.bias, self.cls_token, self.pos_embed)
        recompute = self.grad_checkpointing and self.training
        for i, block in enumerate(self.blocks):
            last = self.class_token_only and i == len(self.blocks) - 1
            x = checkpoint(block, x, last, use_reentrant=False) if recompute else block(x, last)
        return self.head(self.norm(x[:, 0]))
