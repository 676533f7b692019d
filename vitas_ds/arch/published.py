"""The published networks of ViTAS and the DeiT baselines: specs, and the results from the papers.

A layer in published.json is [num_heads, qkv_dim, mlp_dim, softmax scale of the first release]; null is an identity.
The accuracies are those of the papers (ViTAS, arXiv 2106.13700; DeiT, arXiv 2012.12877), not measured here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vitas_ds.arch.spec import LayerSpec, SubnetSpec, read_spec
from vitas_ds.errors import UserError


@dataclass(frozen=True, slots=True)
class PublishedNet:
    """A network of a paper: its spec, and its reported accuracies (percent) and FLOPs (counted as in the paper)."""

    name: str
    spec: SubnetSpec
    table_flops: str
    top1: float
    top5: float | None


@cache
def _table() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "published.json").read_text())


def names() -> tuple[str, ...]:
    """Return the names of all published networks."""
    return tuple(_table())


def published(name: str, first_release: bool = False) -> PublishedNet:
    """Return the published network with this name.

    Args:
        name: One of ``names()``.
        first_release: If false, return the spec that this project trains: canonical, softmax scale head_dim ** -0.5,
            norms with eps 1e-6. If true, return the spec of the first release: with identity positions, its own
            softmax scales, and a final norm with eps 1e-5.

    Raises:
        UserError: No published network has this name.
    """
    if name not in _table():
        raise UserError(f"{name}: no such published network; choose from {', '.join(names())}")
    row = _table()[name]
    layers = tuple(r and LayerSpec(r[0], r[1], r[2], r[3] if first_release else None) for r in row["layers"])
    eps = 1e-5 if first_release and name.startswith("vitas") else 1e-6
    spec = SubnetSpec(224, row["patch_size"], row["embed_dim"], 1000, layers, eps)
    spec = spec if first_release else spec.canonical()
    return PublishedNet(name, spec, row["table_flops"], row["top1"], row["top5"])


def find_spec(name_or_path: str) -> SubnetSpec:
    """Return the spec of a published network or of a spec file.

    Raises:
        UserError: ``name_or_path`` is neither, or the file is not valid.
    """
    if name_or_path in _table():
        return published(name_or_path).spec
    if name_or_path.endswith(".json") or Path(name_or_path).is_file():
        return read_spec(Path(name_or_path))
    raise UserError(f"{name_or_path}: neither a spec file nor a published network ({', '.join(names())})")
