"""Extract a subnet from the supernet as a plain network with the inherited weights."""

from __future__ import annotations

from torch import Tensor

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.models.channels import Side
from vitas_ds.models.pack import pack
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
    """Return the weights of a subnet, with the parameter names of ``VisionTransformer``: a pack without padding."""
    stored = supernet.stored(spec, (side or supernet.sides[0],), multiple=1)
    dtype = next(supernet.parameters()).dtype
    stem, *layers, head = pack([s.part for s in stored], [s.sources() for s in stored], dtype)
    p = spec.patch_size
    tensors = {
        "patch_embed.proj.weight": stem["weight"][0].unflatten(1, (3, p, p)),
        "patch_embed.proj.bias": stem["bias"][0], "cls_token": stem["cls_token"], "pos_embed": stem["pos_embed"],
    }  # fmt: skip
    tensors |= {f"blocks.{i}.{name}": value[0] for i, layer in enumerate(layers) for name, value in layer.items()}
    return tensors | {name: value[0] for name, value in head.items()}
