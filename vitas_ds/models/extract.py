"""Supernet + spec -> the plain network with the inherited weights."""

from __future__ import annotations

from torch import Tensor

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.models.channels import Side, channels
from vitas_ds.models.supernet import Supernet
from vitas_ds.models.vit import VisionTransformer


def extract(supernet: Supernet, spec: SubnetSpec, side: Side | None = None) -> VisionTransformer:
    """The spec as a plain network whose logits equal ``supernet(images, spec, [side])`` exactly.

    ``side`` None is the only side of ordinal and cyclic sharing, the left one of bilateral sharing.
    """
    like = next(supernet.parameters())
    vit = VisionTransformer(spec, class_token_only=supernet.class_token_only).to(like.device, like.dtype)
    vit.load_state_dict({name: value.detach() for name, value in weights(supernet, spec, side).items()})
    return vit.train(supernet.training)


def weights(supernet: Supernet, spec: SubnetSpec, side: Side | None = None) -> dict[str, Tensor]:
    """The slices that a spec uses, under the names of ``VisionTransformer``."""
    side = side or supernet.sides[0]
    embed = channels(side, spec.embed_dim, supernet.space.embed_widths)
    stem = supernet.stem(spec).cut(embed)
    named = {"cls_token": stem.pop("cls_token"), "pos_embed": stem.pop("pos_embed")}
    groups = {"patch_embed.proj": stem, "norm": supernet.norm.cut(embed), "head": supernet.head.cut(None, embed)}
    for i, (block, layer) in enumerate(supernet.used_blocks(spec)):
        rows = channels(side, layer.attn_dim, block.attn.widths)
        hidden = channels(side, layer.mlp_dim, block.mlp.widths)
        groups |= {
            f"blocks.{i}.norm1": block.norm1.cut(embed),
            f"blocks.{i}.attn.qkv": block.attn.cut(layer, side, embed),
            f"blocks.{i}.attn.proj": block.attn.proj.cut(embed, rows),
            f"blocks.{i}.norm2": block.norm2.cut(embed),
            f"blocks.{i}.mlp.fc1": block.mlp.fc1.cut(hidden, embed),
            f"blocks.{i}.mlp.fc2": block.mlp.fc2.cut(embed, hidden),
        }
    return named | {f"{group}.{name}": value for group, cut in groups.items() for name, value in cut.items()}
