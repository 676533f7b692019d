"""Layers of which a forward pass uses a slice. ``cut`` says the slice; ``forward`` is the plain layer on it."""
# B batch, N tokens, D embedding width, a q width

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitas_ds.models.layers import attention, embed_patches
from vitas_ds.sharing import Runs, Side, channels
from vitas_ds.space import SearchSpace
from vitas_ds.spec import LayerSpec


def take(weight: Tensor, *runs: Runs | None) -> Tensor:
    """The runs of each dimension (None: all of it): a view where each is one run, else a concatenation."""
    for dim, parts in enumerate(runs):
        if parts is None:
            continue
        pieces = [weight.narrow(dim, run.start, run.stop - run.start) for run in parts]
        weight = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)
    return weight


class ElasticLinear(nn.Module):
    """A linear layer of which some outputs and inputs are used."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))

    def cut(self, out: Runs | None, in_: Runs) -> dict[str, Tensor]:
        """Weight and bias of the plain layer."""
        return {"weight": take(self.weight, out, in_), "bias": take(self.bias, out)}

    def forward(self, x: Tensor, out: Runs | None, in_: Runs) -> Tensor:
        """[..., in] -> [..., out]."""
        return F.linear(x, **self.cut(out, in_))


class ElasticNorm(nn.Module):
    """Layer norm over the channels in use."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim))

    def cut(self, embed: Runs) -> dict[str, Tensor]:
        """Weight and bias of the plain layer."""
        return {"weight": take(self.weight, embed), "bias": take(self.bias, embed)}

    def forward(self, x: Tensor, embed: Runs) -> Tensor:
        """[..., D] -> [..., D]."""
        return F.layer_norm(x, (x.shape[-1],), **self.cut(embed), eps=self.eps)


class ElasticStem(nn.Module):
    """Patch embedding, class token and positions of one patch size; each patch size has its own (ViTAS, 3.3)."""

    def __init__(self, space: SearchSpace, patch_size: int) -> None:
        super().__init__()
        tokens = (space.image_size // patch_size) ** 2 + 1
        self.weight = nn.Parameter(torch.empty(space.embed_dim, 3, patch_size, patch_size))
        self.bias = nn.Parameter(torch.empty(space.embed_dim))
        self.cls_token = nn.Parameter(torch.empty(1, 1, space.embed_dim))
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, space.embed_dim))

    def cut(self, embed: Runs) -> dict[str, Tensor]:
        """Weight, bias, class token and positions of the plain stem."""
        tokens = {name: take(getattr(self, name), None, None, embed) for name in ("cls_token", "pos_embed")}
        return {"weight": take(self.weight, embed), "bias": take(self.bias, embed)} | tokens

    def forward(self, patches: Tensor, embed: Runs) -> Tensor:
        """[B, n, 3pp] -> [B, N, D]."""
        return embed_patches(patches, **self.cut(embed))


class ElasticAttention(nn.Module):
    """Self-attention whose q, k and v have rows of their own, so that a row is q (or k, or v) at every width.

    ``private_attention`` says which of them each head count has for itself (ViTAS, "private self-attention maps"):
    0 none, 1 v, 2 q and k.
    """

    def __init__(self, space: SearchSpace, private_attention: int) -> None:
        super().__init__()
        self.private = {0: "", 1: "v", 2: "qk"}[private_attention]
        self.widths = space.attn_widths
        for part in "qkv":
            for heads in space.num_heads if part in self.private else (0,):
                weight, bias = self.names(part, heads)
                self.register_parameter(weight, nn.Parameter(torch.empty(self.widths[-1], space.embed_dim)))
                self.register_parameter(bias, nn.Parameter(torch.empty(self.widths[-1])))
        self.proj = ElasticLinear(self.widths[-1], space.embed_dim)

    def names(self, part: str, num_heads: int) -> tuple[str, str]:
        """Parameter names of the weight and the bias of ``part`` ("q", "k" or "v") for a head count."""
        suffix = f"{num_heads}" if part in self.private else ""
        return f"{part}{suffix}_weight", f"{part}{suffix}_bias"

    def cut(self, layer: LayerSpec, side: Side, embed: Runs) -> dict[str, Tensor]:
        """Weight [3a, D] and bias [3a] of the plain joint projection: one product instead of three."""
        rows = channels(side, layer.attn_dim, self.widths)
        names = [self.names(part, layer.num_heads) for part in "qkv"]
        weight = torch.cat([take(getattr(self, w), rows, embed) for w, _ in names])
        return {"weight": weight, "bias": torch.cat([take(getattr(self, b), rows) for _, b in names])}

    def forward(self, x: Tensor, layer: LayerSpec, side: Side, embed: Runs) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        x = attention(F.linear(x, **self.cut(layer, side, embed)), layer.num_heads, layer.softmax_scale)
        return self.proj(x, embed, channels(side, layer.attn_dim, self.widths))


class ElasticMlp(nn.Module):
    """Two linear layers with GELU between, of which some hidden channels are used."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.widths = space.mlp_widths
        self.fc1 = ElasticLinear(space.embed_dim, space.mlp_dim)
        self.fc2 = ElasticLinear(space.mlp_dim, space.embed_dim)

    def forward(self, x: Tensor, layer: LayerSpec, side: Side, embed: Runs) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        hidden = channels(side, layer.mlp_dim, self.widths)
        return self.fc2(F.gelu(self.fc1(x, hidden, embed)), embed, hidden)


class ElasticBlock(nn.Module):
    """A pre-norm transformer block of which a spec's slice is used."""

    def __init__(self, space: SearchSpace, private_attention: int) -> None:
        super().__init__()
        self.norm1 = ElasticNorm(space.embed_dim)
        self.attn = ElasticAttention(space, private_attention)
        self.norm2 = ElasticNorm(space.embed_dim)
        self.mlp = ElasticMlp(space)

    def forward(self, x: Tensor, layer: LayerSpec, side: Side, embed: Runs) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        x = x + self.attn(self.norm1(x, embed), layer, side, embed)
        return x + self.mlp(self.norm2(x, embed), layer, side, embed)
