"""The published nets of ViTAS and the DeiT baselines as specs (published.json), with what their tables say of them.

A layer in the file is [heads, q/k/v width, MLP width, softmax scale of the first release's net], null an identity.
Accuracies are the papers' (ViTAS, arXiv 2106.13700; DeiT, arXiv 2012.12877), not measured here.
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
class Published:
    """A net of a paper's table: its spec and the figures that the paper states (percent; FLOPs in its own count)."""

    name: str
    spec: SubnetSpec
    table_flops: str
    top1: float
    top5: float | None


@cache
def _table() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "published.json").read_text())


def names() -> tuple[str, ...]:
    """Names of all published nets."""
    return tuple(_table())


def published(name: str, first_release: bool = False) -> Published:
    """The net of that name.

    ``first_release`` False gives it as it is trained here: canonical, with softmax scale head_dim ** -0.5 and norms of
    eps 1e-6. True gives it as the first release built it: identity positions kept, its own softmax scales, and a final
    norm of eps 1e-5.

    Raises:
        UserError: there is no such net.
    """
    if name not in _table():
        raise UserError(f"{name}: no such published net; there are {', '.join(names())}")
    row = _table()[name]
    layers = tuple(r and LayerSpec(r[0], r[1], r[2], r[3] if first_release else None) for r in row["layers"])
    eps = 1e-5 if first_release and name.startswith("vitas") else 1e-6
    spec = SubnetSpec(224, row["patch_size"], row["embed_dim"], 1000, layers, eps)
    return Published(name, spec if first_release else spec.canonical(), row["table_flops"], row["top1"], row["top5"])


def find_spec(word: str) -> SubnetSpec:
    """The spec that a user means by NET or SPEC.json. Raises ``UserError`` if it is neither."""
    if word in _table():
        return published(word).spec
    if word.endswith(".json") or Path(word).is_file():
        return read_spec(Path(word))
    raise UserError(f"{word}: neither a spec file nor a published net ({', '.join(names())})")
