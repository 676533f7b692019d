"""Extract a subnet from the supernet as a plain network with the inherited weights."""

from __future__ import annotations

from torch import Tensor

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.models.channels import Side, channel_slices
from vitas_ds.models.supernet import Supernet
from vitas_ds.models.vit import VisionTransformer


def extract(supernet: Supernet, spec: SubnetSpec, side: Side | None = None) -> VisionTransformer:
    """Return the spec as a plain network with exactly the logits of ``supernet(images, spec, [side])``.

    Args:
        supernet: The supernet. Its weights are copied.
        spec: A network of the space of the supernet.
        side: The side of the sharing rule. None: the first side, which is ``left`` for bilateral sharing.
    """
    reference = next(supernet.parameters())
    vit = VisionTransformer(spec, class_token_only=supernet.class_token_only).to(reference.device, reference.dtype)
    vit.load_state_dict({name: value.detach() for name, value in subnet_state_dict(supernet, spec, side).items()})
    return vit.train(supernet.training)


def subnet_state_dict(supernet: Supernet, spec: SubnetSpec, side: Side | None = None) -> dict[str, Tensor]:
    """Return the weights of a subnet, with the parameter names of ``VisionTransformer``."""
    side = side or supernet.sides[0]
    embed = channel_slices(side, spec.embed_dim, supernet.space.embed_widths)
    stem = supernet.stem(spec).slice_weights(embed)
    tokens = {"cls_token": stem.pop("cls_token"), "pos_embed": stem.pop("pos_embed")}
    groups = {
        "patch_embed.proj": stem,
        "norm": supernet.norm.slice_weights(embed),
        "head": supernet.head.slice_weights(None, embed),
    }
    for i, (block, layer) in enumerate(supernet.active_blocks(spec)):
        rows = channel_slices(side, layer.attn_dim, block.attn.widths)
        hidden = channel_slices(side, layer.mlp_dim, block.mlp.widths)
        groups |= {
            f"blocks.{i}.norm1": block.norm1.slice_weights(embed),
            f"blocks.{i}.attn.qkv": block.attn.slice_weights(layer, side, embed),
            f"blocks.{i}.attn.proj": block.attn.proj.slice_weights(embed, rows),
            f"blocks.{i}.norm2": block.norm2.slice_weights(embed),
            f"blocks.{i}.mlp.fc1": block.mlp.fc1.slice_weights(hidden, embed),
            f"blocks.{i}.mlp.fc2": block.mlp.fc2.slice_weights(embed, hidden),
        }
    return tokens | {f"{group}.{name}": value for group, tensors in groups.items() for name, value in tensors.items()}
