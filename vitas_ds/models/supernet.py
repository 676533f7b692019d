"""The weight-sharing supernet: every net of a space in one set of weights (ViTAS, arXiv 2106.13700)."""
# B batch, N tokens (class token first), D embedding width, S sides

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.models.channels import SIDES, Rule, Side, channels
from vitas_ds.models.elastic import ElasticBlock, ElasticLinear, ElasticNorm, ElasticStem
from vitas_ds.models.layers import patchify


class Supernet(nn.Module):
    """``supernet(images, spec) -> logits [S, B, classes]``, S the sides of the sharing rule (2 for bilateral, else 1).

    The spec is an argument, not a state. It must be a net of ``space`` (``genome.encode`` says so); identity
    positions of it are skipped, fewer layers than positions use the first ones.

    With ``class_token_only`` the last layer computes q, the projection and the MLP for the class token alone, which is
    all that the classifier sees: the same logits up to rounding, for fewer MACs than the spec's ``cost.macs`` say. It
    is for training and scoring; off, a forward pass executes what the cost model counts.
    """

    def __init__(
        self, space: SearchSpace, sharing: Rule, private_attention: int = 2, grad_checkpointing: bool = False,
        class_token_only: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.space, self.sides, self.grad_checkpointing = space, SIDES[sharing], grad_checkpointing
        self.class_token_only = class_token_only
        self.private = private_attention > 0
        self.stems = nn.ModuleDict({f"patch{p}": ElasticStem(space, p) for p in space.patch_sizes})
        self.blocks = nn.ModuleList(ElasticBlock(space, private_attention) for _ in range(space.depth))
        self.norm = ElasticNorm(space.embed_dim)
        self.head = ElasticLinear(space.embed_dim, space.num_classes)

    def forward(self, images: Tensor, spec: SubnetSpec, sides: Sequence[Side] | None = None) -> Tensor:
        """[B, 3, H, W] -> [S, B, classes] of the given sides (None: all of the sharing rule)."""
        sides = sides or self.sides
        embed = [channels(side, spec.embed_dim, self.space.embed_widths) for side in sides]
        x_SBND = self.stem(spec)(patchify(images, spec.patch_size), embed)  # SB: side after side
        blocks = self.used_blocks(spec)
        for block, layer in blocks:
            class_token_only = self.class_token_only and block is blocks[-1][0]
            arguments = x_SBND, layer, sides, embed, class_token_only
            if self.grad_checkpointing and self.training:
                x_SBND = checkpoint(block, *arguments, use_reentrant=False)
            else:
                x_SBND = block(*arguments)
        logits = self.head(self.norm(x_SBND[:, 0], embed), [None] * len(sides), embed)
        return logits.unflatten(0, (len(sides), -1))

    def stem(self, spec: SubnetSpec) -> ElasticStem:
        """The stem of the spec's patch size."""
        return cast(ElasticStem, self.stems[f"patch{spec.patch_size}"])

    def used_blocks(self, spec: SubnetSpec) -> list[tuple[ElasticBlock, LayerSpec]]:
        """The blocks that the spec uses, each with what it uses of it, in order."""
        blocks = cast(Iterable[ElasticBlock], self.blocks)
        return [(block, layer) for block, layer in zip(blocks, spec.layers, strict=False) if layer is not None]

    def units(self) -> dict[str, list[nn.Parameter]]:
        """The sampling units: parameters that a step uses together or not at all. They cover every parameter once.

        A stem for each patch size, each layer, each layer's private attention of a head count; norm with classifier.
        """
        units: dict[str, list[nn.Parameter]] = {name: list(stem.parameters()) for name, stem in self.stems.items()}
        for i, block in enumerate(cast(Iterable[ElasticBlock], self.blocks)):
            private = {
                h: [getattr(block.attn, name) for part in block.attn.private for name in block.attn.names(part, h)]
                for h in (self.space.num_heads if block.attn.private else ())
            }
            taken = {id(p) for group in private.values() for p in group}
            units[f"layer{i}"] = [p for p in block.parameters() if id(p) not in taken]
            units |= {f"layer{i}.heads{h}": group for h, group in private.items()}
        units["head"] = [*self.norm.parameters(), *self.head.parameters()]
        return units

    def units_used(self, spec: SubnetSpec) -> set[str]:
        """Names of the sampling units that a forward pass of the spec uses."""
        used = {f"patch{spec.patch_size}", "head"}
        for i, layer in enumerate(spec.layers):
            if layer is not None:
                used |= {f"layer{i}", *([f"layer{i}.heads{layer.num_heads}"] if self.private else [])}
        return used
