"""Scores of the subnets in the supernets of the record.

The scores after a short training of each subnet from the weights in a supernet (rows of the kind "adapted") are
further ways of scoring that supernet.
"""
# n nets, S supernets

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.truth import Truth

BASES = ("budget", "default", "base")  # each is compared with the next one, all other variants with the first
WAY = "accuracy"  # the score of the product
CHECKPOINT, LAST = ", at ", 3  # name of a score before the end of the training; checkpoints in a mean


def supernets(record: Record) -> list[str]:
    """Return the variants in the order of their first completion."""
    return list(dict.fromkeys(row["what"] for row in record.of("supernet")))


def ways(record: Record, variant: str | None = None) -> list[str]:
    """Return the ways of scoring that a variant (None: any) has: that of the product, others, earlier checkpoints."""
    rows = [row for row in _scored_rows(record) if variant in (None, row["what"])]
    found = dict.fromkeys(way for row in rows for way in row["scores"])
    return sorted(found, key=lambda way: (way != WAY, CHECKPOINT in way))


def _scored_rows(record: Record) -> list[dict[str, Any]]:
    rows = [*record.of("supernet"), *record.of("adapted")]
    return [row | {"scores": row["scores"] | _means(row["scores"])} for row in rows]


def _means(scores: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return the mean score over the last checkpoints, for each way of scoring that has earlier ones."""
    found = {}
    for way, last in scores.items():
        earlier = [scores[other] for other in scores if other.startswith(f"{way}{CHECKPOINT}")][1 - LAST :]
        if earlier:
            parts = [*earlier, last]
            common = [name for name in last if all(name in part for part in parts)]
            found[f"{way}, mean of {len(parts)} checkpoints"] = {
                name: float(np.mean([part[name] for part in parts])) for name in common
            }
    return found


def main_way(record: Record) -> str:
    """Return the way of scoring of the tables that compare supernets."""
    return ways(record)[0]


def scores_of(record: Record, truth: Truth, variant: str, way: str | None = None) -> dict[int, np.ndarray]:
    """Return the scores [n] of the subnets in the supernets of a variant, by seed; NaN for a subnet without score."""
    way = way or main_way(record)
    rows = [row for row in _scored_rows(record) if row["what"] == variant and way in row["scores"]]
    return {row["seed"]: np.array([row["scores"][way].get(name, np.nan) for name in truth.names]) for row in rows}


def base_of(record: Record, variant: str) -> str | None:
    """Return the variant that a variant is compared with, None if there is none.

    "a, b" changes one thing of "a" if there is an "a".
    """
    names = supernets(record)
    parent = variant.rpartition(", ")[0]
    if parent in names:
        return parent
    later = BASES[BASES.index(variant) + 1 :] if variant in BASES else BASES
    base = next((name for name in later if name in names), None)
    return base if base or variant in BASES or variant == names[0] else names[0]


def pairs(scores: dict[int, np.ndarray], less: dict[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return two arrays [S, n] of the seeds that both have, None if there is no such seed."""
    seeds = [seed for seed in scores if seed in less]
    return (np.array([scores[s] for s in seeds]), np.array([less[s] for s in seeds])) if seeds else None


def stacked(scores: dict[int, np.ndarray]) -> np.ndarray:
    """Return the scores as one array [S, n]."""
    return np.array(list(scores.values()))


def scored(truth: Truth, group: str, scores: np.ndarray) -> bool:
    """Return whether every subnet of a group has a score."""
    return bool(np.isfinite(scores[:, truth.at(group)]).all())
