"""Layers of which a forward pass uses a slice. ``cut`` says the slice; ``forward`` is the plain layer on it.

The sides of a net lie one after the other in the batch, and each layer computes all of them before the next. So a
parameter has one gradient, whatever the number of sides, and what has no weights is one operation for all.
"""
# S sides, B batch, N tokens, D embedding width, a q width

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import LayerSpec
from vitas_ds.models.channels import Runs, Side, channels
from vitas_ds.models.layers import attend, attention, embed_patches
from vitas_ds.models.sliced import AllRuns, sliced_linear, take


class ElasticLinear(nn.Module):
    """A linear layer of which some outputs and inputs are used."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))

    def cut(self, out: Runs | None, in_: Runs | None) -> dict[str, Tensor]:
        """Weight and bias of the plain layer."""
        return {"weight": take(self.weight, out, in_), "bias": take(self.bias, out)}

    def forward(self, x: Tensor, out: AllRuns, in_: AllRuns, gelu: bool = False) -> Tensor:
        """[S * B, ..., in] -> [S * B, ..., out], of GELU of ``x`` if asked."""
        return sliced_linear(x, out, in_, self.weight, self.bias, gelu=gelu)


class ElasticNorm(nn.Module):
    """Layer norm over the channels in use."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim))

    def cut(self, embed: Runs | None) -> dict[str, Tensor]:
        """Weight and bias of the plain layer."""
        return {"weight": take(self.weight, embed), "bias": take(self.bias, embed)}

    def forward(self, x: Tensor, embed: AllRuns) -> Tensor:
        """[S * B, ..., D] -> [S * B, ..., D]."""
        sides = zip(x.chunk(len(embed)), embed, strict=True)
        done = [F.layer_norm(part, (x.shape[-1],), **self.cut(runs), eps=self.eps) for part, runs in sides]
        return done[0] if len(done) == 1 else torch.cat(done)


class ElasticStem(nn.Module):
    """Patch embedding, class token and positions of one patch size; each patch size has its own (ViTAS, 3.3)."""

    def __init__(self, space: SearchSpace, patch_size: int) -> None:
        super().__init__()
        tokens = (space.image_size // patch_size) ** 2 + 1
        self.weight = nn.Parameter(torch.empty(space.embed_dim, 3, patch_size, patch_size))
        self.bias = nn.Parameter(torch.empty(space.embed_dim))
        self.cls_token = nn.Parameter(torch.empty(1, 1, space.embed_dim))
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, space.embed_dim))

    def cut(self, embed: Runs | None) -> dict[str, Tensor]:
        """Weight, bias, class token and positions of the plain stem."""
        tokens = {name: take(getattr(self, name), None, None, embed) for name in ("cls_token", "pos_embed")}
        return {"weight": take(self.weight, embed), "bias": take(self.bias, embed)} | tokens

    def forward(self, patches: Tensor, embed: AllRuns) -> Tensor:
        """[B, n, 3pp] -> [S * B, N, D]."""
        return torch.cat([embed_patches(patches, **self.cut(runs)) for runs in embed])


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

    def forward(
        self, x: Tensor, layer: LayerSpec, sides: Sequence[Side], embed: AllRuns, class_token_only: bool = False
    ) -> Tensor:
        """[S * B, N, D] -> [S * B, N, D], or [S * B, 1, D] of the class token."""
        rows = [channels(side, layer.attn_dim, self.widths) for side in sides]
        if class_token_only:
            q = self._project(x[:, :1], "q", layer, rows, embed)
            k, v = self._project(x, "kv", layer, rows, embed).chunk(2, -1)
            x = attend(q, k, v, layer.num_heads, layer.softmax_scale)
        else:
            x = attention(self._project(x, "qkv", layer, rows, embed), layer.num_heads, layer.softmax_scale)
        return self.proj(x, embed, rows)

    def _project(self, x: Tensor, parts: str, layer: LayerSpec, rows: AllRuns, embed: AllRuns) -> Tensor:
        """Some of q, k and v, side by side."""
        weights, biases = zip(*(self.names(part, layer.num_heads) for part in parts), strict=True)
        params = [getattr(self, name) for name in (*weights, *biases)]
        return sliced_linear(x, rows, embed, *params)


class ElasticMlp(nn.Module):
    """Two linear layers with GELU between, of which some hidden channels are used."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.widths = space.mlp_widths
        self.fc1 = ElasticLinear(space.embed_dim, space.mlp_dim)
        self.fc2 = ElasticLinear(space.mlp_dim, space.embed_dim)

    def forward(self, x: Tensor, layer: LayerSpec, sides: Sequence[Side], embed: AllRuns) -> Tensor:
        """[S * B, N, D] -> [S * B, N, D]."""
        hidden = [channels(side, layer.mlp_dim, self.widths) for side in sides]
        return self.fc2(self.fc1(x, hidden, embed), embed, hidden, gelu=True)


class ElasticBlock(nn.Module):
    """A pre-norm transformer block of which a spec's slice is used."""

    def __init__(self, space: SearchSpace, private_attention: int) -> None:
        super().__init__()
        self.norm1 = ElasticNorm(space.embed_dim)
        self.attn = ElasticAttention(space, private_attention)
        self.norm2 = ElasticNorm(space.embed_dim)
        self.mlp = ElasticMlp(space)

    def forward(
        self, x: Tensor, layer: LayerSpec, sides: Sequence[Side], embed: AllRuns, class_token_only: bool = False
    ) -> Tensor:
        """[S * B, N, D] -> [S * B, N, D], or [S * B, 1, D] of the class token."""
        residual = x[:, :1] if class_token_only else x
        x = residual + self.attn(self.norm1(x, embed), layer, sides, embed, class_token_only)
        return x + self.mlp(self.norm2(x, embed), layer, sides, embed)
