"""The weight-sharing supernet: one set of weights for all networks of a space (ViTAS, arXiv 2106.13700)."""
# S sides, B batch, H height, W width, N tokens (class token first), D embed_dim

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.models.channels import SIDES, Rule, Side, channel_slices
from vitas_ds.models.elastic import ElasticBlock, ElasticLinear, ElasticNorm, ElasticStem
from vitas_ds.models.layers import patchify


class Supernet(nn.Module):
    """``supernet(images, spec) -> logits [S, B, classes]``, with the S sides of the rule (2 for bilateral, else 1).

    The spec is an argument, not a state. It must be a network of ``space`` (``genome.encode`` checks this). Identity
    positions are skipped. A spec with fewer layers than positions uses the first blocks.

    With ``class_token_only``, the last layer computes q, projection and MLP only for the class token: the
    classifier reads no other token. The logits are equal up to rounding, and the forward pass needs fewer MACs than
    ``cost.macs`` counts. Use it for training and scoring. Without it, a forward pass executes exactly the MACs of the
    cost model.
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
        """[B, 3, H, W] -> [S, B, classes] for the given sides (None: all sides of the rule)."""
        sides = sides or self.sides
        embed = [channel_slices(side, spec.embed_dim, self.space.embed_widths) for side in sides]
        x_SBND = self.stem(spec)(patchify(images, spec.patch_size), embed)  # SB: S * B, one side after the other
        blocks = self.active_blocks(spec)
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
        """Return the stem for the patch size of the spec."""
        return cast(ElasticStem, self.stems[f"patch{spec.patch_size}"])

    def active_blocks(self, spec: SubnetSpec) -> list[tuple[ElasticBlock, LayerSpec]]:
        """Return the active blocks of the spec, in order, each with its ``LayerSpec``."""
        blocks = cast(Iterable[ElasticBlock], self.blocks)
        return [(block, layer) for block, layer in zip(blocks, spec.layers, strict=False) if layer is not None]

    def units(self) -> dict[str, list[nn.Parameter]]:
        """Return the sampling units: groups of parameters that a step uses together or not at all.

        The units are the stem of each patch size, each layer, the private attention of each layer and head count, and
        the final norm with the classifier. Each parameter belongs to exactly one unit.
        """
        units: dict[str, list[nn.Parameter]] = {name: list(stem.parameters()) for name, stem in self.stems.items()}
        for i, block in enumerate(cast(Iterable[ElasticBlock], self.blocks)):
            private = {
                h: [getattr(block.attn, name) for part in block.attn.private for name in block.attn.names(part, h)]
                for h in (self.space.num_heads if block.attn.private else ())
            }
            private_ids = {id(p) for group in private.values() for p in group}
            units[f"layer{i}"] = [p for p in block.parameters() if id(p) not in private_ids]
            units |= {f"layer{i}.heads{h}": group for h, group in private.items()}
        units["head"] = [*self.norm.parameters(), *self.head.parameters()]
        return units

    def units_used(self, spec: SubnetSpec) -> set[str]:
        """Return the names of the sampling units in a forward pass of the spec."""
        used = {f"patch{spec.patch_size}", "head"}
        for i, layer in enumerate(spec.layers):
            if layer is not None:
                used |= {f"layer{i}", *([f"layer{i}.heads{layer.num_heads}"] if self.private else [])}
        return used
