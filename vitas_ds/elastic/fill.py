"""Fill a supernet with the weights of the pretrained network, its largest subnet."""
# a = qkv_dim / 3

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from vitas_ds.models.supernet import Supernet

STEM = re.compile(r"stems\.patch\d+\.(?P<tensor>.*)")
ATTENTION = re.compile(r"(?P<block>blocks\.\d+\.attn)\.(?P<x>[qkv])\d*_(?P<kind>weight|bias)")
PRIVATE_NORM = re.compile(r"norms_p\d+_d\d+\.")


def fill(supernet: Supernet, tensors: Mapping[str, Tensor]) -> None:
    """Copy the weights of a network, named as in ``VisionTransformer``, into a supernet with its space.

    Private copies of q, k and v and of norms all start from the same weights.
    """
    found, used = {}, set()
    for name in supernet.state_dict():
        found[name], source = _tensor(name, tensors)
        used.add(source)
    assert used == set(tensors), f"not copied: {sorted(set(tensors) - used)}"
    supernet.load_state_dict(found)


def _tensor(name: str, tensors: Mapping[str, Tensor]) -> tuple[Tensor, str]:
    """Return the values of a tensor of the supernet, and the name of the tensor that contains them."""
    if match := ATTENTION.fullmatch(name):
        source = f"{match['block']}.qkv.{match['kind']}"
        return tensors[source].chunk(3)["qkv".index(match["x"])], source
    if match := STEM.fullmatch(name):
        tensor = match["tensor"]
        source = f"patch_embed.proj.{tensor}" if tensor in ("weight", "bias") else tensor
        return tensors[source], source
    source = PRIVATE_NORM.sub("", name)
    return tensors[source], source
