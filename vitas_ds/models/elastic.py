"""Elastic layers: ``forward`` computes the plain layer on a slice of the weights, ``slice_weights`` returns the slice.

The sides of a subnet are concatenated in the batch, and each layer computes all sides before the next layer starts.
Each parameter therefore gets one gradient for any number of sides, and operations without weights run once for all
sides.
"""
# S sides, B batch, N tokens (class token first), n = N - 1 patches, p patch_size, D embed_dim, a = qkv_dim / 3

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import LayerSpec
from vitas_ds.models.channels import Side, Slices, channel_slices
from vitas_ds.models.layers import attend, attention, embed_patches
from vitas_ds.models.sliced import SideSlices, sliced_linear, take_slices


class ElasticLinear(nn.Module):
    """A linear layer that uses a subset of its outputs and inputs."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))

    def slice_weights(self, out: Slices | None, in_: Slices | None) -> dict[str, Tensor]:
        """Return weight [out, in] and bias [out] of the plain layer."""
        return {"weight": take_slices(self.weight, out, in_), "bias": take_slices(self.bias, out)}

    def forward(self, x: Tensor, out: SideSlices, in_: SideSlices, gelu: bool = False) -> Tensor:
        """[S * B, ..., in] -> [S * B, ..., out]. With ``gelu``, apply GELU to ``x`` first."""
        return sliced_linear(x, out, in_, self.weight, self.bias, gelu=gelu)


class ElasticNorm(nn.Module):
    """Layer norm over the active channels."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim))

    def slice_weights(self, embed: Slices | None) -> dict[str, Tensor]:
        """Return weight [D] and bias [D] of the plain layer."""
        return {"weight": take_slices(self.weight, embed), "bias": take_slices(self.bias, embed)}

    def forward(self, x: Tensor, embed: SideSlices) -> Tensor:
        """[S * B, ..., D] -> [S * B, ..., D]."""
        sides = zip(x.chunk(len(embed)), embed, strict=True)
        out = [F.layer_norm(part, (x.shape[-1],), **self.slice_weights(s), eps=self.eps) for part, s in sides]
        return out[0] if len(out) == 1 else torch.cat(out)


class ElasticStem(nn.Module):
    """Patch embedding, class token and position embedding of one patch size (ViTAS, section 3.3)."""

    def __init__(self, space: SearchSpace, patch_size: int) -> None:
        super().__init__()
        tokens = (space.image_size // patch_size) ** 2 + 1
        self.weight = nn.Parameter(torch.empty(space.embed_dim, 3, patch_size, patch_size))
        self.bias = nn.Parameter(torch.empty(space.embed_dim))
        self.cls_token = nn.Parameter(torch.empty(1, 1, space.embed_dim))
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, space.embed_dim))

    def slice_weights(self, embed: Slices | None) -> dict[str, Tensor]:
        """Return weight, bias, class token and position embedding of the plain stem."""
        tokens = {name: take_slices(getattr(self, name), None, None, embed) for name in ("cls_token", "pos_embed")}
        return {"weight": take_slices(self.weight, embed), "bias": take_slices(self.bias, embed)} | tokens

    def forward(self, patches: Tensor, embed: SideSlices) -> Tensor:
        """[B, n, 3 * p * p] -> [S * B, N, D]."""
        return torch.cat([embed_patches(patches, **self.slice_weights(side)) for side in embed])


class ElasticAttention(nn.Module):
    """Self-attention with separate weights for q, k and v: a row belongs to the same one of them at every width.

    ``private_attention`` selects the projections with separate weights for each head count (ViTAS, "private
    self-attention maps"): 0 none, 1 v, 2 q and k.
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
        """Return the names of the weight and bias of ``part`` ("q", "k" or "v") for a head count."""
        suffix = f"{num_heads}" if part in self.private else ""
        return f"{part}{suffix}_weight", f"{part}{suffix}_bias"

    def slice_weights(self, layer: LayerSpec, side: Side, embed: Slices) -> dict[str, Tensor]:
        """Return weight [3 * a, D] and bias [3 * a] of the joint q/k/v projection of the plain layer."""
        rows = channel_slices(side, layer.attn_dim, self.widths)
        names = [self.names(part, layer.num_heads) for part in "qkv"]
        weight = torch.cat([take_slices(getattr(self, w), rows, embed) for w, _ in names])
        return {"weight": weight, "bias": torch.cat([take_slices(getattr(self, b), rows) for _, b in names])}

    def forward(
        self, x: Tensor, layer: LayerSpec, sides: Sequence[Side], embed: SideSlices, class_token_only: bool = False
    ) -> Tensor:
        """[S * B, N, D] -> [S * B, N, D], or [S * B, 1, D] with ``class_token_only``."""
        rows = [channel_slices(side, layer.attn_dim, self.widths) for side in sides]
        if class_token_only:
            q = self._project(x[:, :1], "q", layer, rows, embed)
            k, v = self._project(x, "kv", layer, rows, embed).chunk(2, -1)
            x = attend(q, k, v, layer.num_heads, layer.softmax_scale)
        else:
            x = attention(self._project(x, "qkv", layer, rows, embed), layer.num_heads, layer.softmax_scale)
        return self.proj(x, embed, rows)

    def _project(self, x: Tensor, parts: str, layer: LayerSpec, rows: SideSlices, embed: SideSlices) -> Tensor:
        """[S * B, N, D] -> [S * B, N, a * len(parts)]: the projections ``parts``, concatenated."""
        weights, biases = zip(*(self.names(part, layer.num_heads) for part in parts), strict=True)
        params = [getattr(self, name) for name in (*weights, *biases)]
        return sliced_linear(x, rows, embed, *params)


class ElasticMlp(nn.Module):
    """Two linear layers with GELU in between, on a subset of the hidden channels."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.widths = space.mlp_widths
        self.fc1 = ElasticLinear(space.embed_dim, space.mlp_dim)
        self.fc2 = ElasticLinear(space.mlp_dim, space.embed_dim)

    def forward(self, x: Tensor, layer: LayerSpec, sides: Sequence[Side], embed: SideSlices) -> Tensor:
        """[S * B, N, D] -> [S * B, N, D]."""
        hidden = [channel_slices(side, layer.mlp_dim, self.widths) for side in sides]
        return self.fc2(self.fc1(x, hidden, embed), embed, hidden, gelu=True)


class ElasticBlock(nn.Module):
    """A pre-norm transformer block that computes the slice of a ``LayerSpec``."""

    def __init__(self, space: SearchSpace, private_attention: int) -> None:
        super().__init__()
        self.norm1 = ElasticNorm(space.embed_dim)
        self.attn = ElasticAttention(space, private_attention)
        self.norm2 = ElasticNorm(space.embed_dim)
        self.mlp = ElasticMlp(space)

    def forward(
        self, x: Tensor, layer: LayerSpec, sides: Sequence[Side], embed: SideSlices, class_token_only: bool = False
    ) -> Tensor:
        """[S * B, N, D] -> [S * B, N, D], or [S * B, 1, D] with ``class_token_only``."""
        residual = x[:, :1] if class_token_only else x
        x = residual + self.attn(self.norm1(x, embed), layer, sides, embed, class_token_only)
        return x + self.mlp(self.norm2(x, embed), layer, sides, embed)
