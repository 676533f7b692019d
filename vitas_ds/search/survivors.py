"""Which choices of a space survive a search. Importing this module imports neither torch nor matplotlib."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import groupby

import numpy as np

from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.search.scoring.candidate import Candidate

Choices = dict[str, tuple[int, ...]]
"""Values of each choice by its name."""


def survivor_shares(
    space: SearchSpace, candidates: list[Candidate], population: int
) -> dict[str, tuple[tuple[int, ...], np.ndarray]]:
    """Return the values of each choice and their shares among the ``population`` best candidates so far.

    Returns:
        For each choice, its values and an array [generations, values].
    """
    choices = choices_of(space)
    best, rows = list[Candidate](), list[dict[str, np.ndarray]]()
    for _, new in groupby(sorted(candidates, key=_generation), key=_generation):
        best = sorted([*best, *new], key=lambda c: (-c.value, c.costs["macs"]))[:population]
        rows.append(shares(choices, best))
    return {name: (values, np.array([row[name] for row in rows])) for name, values in choices.items()}


def choices_of(space: SearchSpace) -> Choices:
    """Return the values of each choice of a space."""
    return {
        "patch size": space.patch_sizes,
        "embedding width": space.embed_widths,
        "layers": tuple(range(space.min_layers, space.depth + 1)),
        "heads of a layer": space.num_heads,
        "q/k/v width of a layer": space.qkv_widths,
        "MLP width of a layer": space.mlp_widths,
    }


def shares(choices: Choices, candidates: Iterable[Candidate]) -> dict[str, np.ndarray]:
    """Return the share of each value of each choice among candidates."""
    counts: dict[str, Counter[int]] = {name: Counter() for name in choices}
    for candidate in candidates:
        for name, values in zip(choices, chosen_values(candidate.spec), strict=True):
            counts[name].update(values)
    found = {name: np.array([counts[name][value] for value in values]) for name, values in choices.items()}
    return {name: count / max(count.sum(), 1) for name, count in found.items()}


def _generation(candidate: Candidate) -> int:
    return candidate.generation


def chosen_values(spec: SubnetSpec) -> tuple[list[int], ...]:
    """Return the values of each choice, in the order of ``choices_of``."""
    layers = spec.active
    heads, qkv, mlp = ([getattr(x, name) for x in layers] for name in ("num_heads", "qkv_dim", "mlp_dim"))
    return [spec.patch_size], [spec.embed_dim], [spec.depth], heads, qkv, mlp
