"""Tables of the supernets: how well their scores rank the subnets."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks.fidelity.alone import binned, genes
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.scores import (
    CHECKPOINT,
    base_of,
    main_way,
    pairs,
    scored,
    scores_of,
    stacked,
    supernets,
    ways,
)
from tests.benchmarks.fidelity.truth import EQUAL, GROUPS, WITHIN, Truth

NOTES = """tau is Kendall's tau between the scores and the mean over the trainings of each subnet. *Of the ceiling*
divides it by the tau of a perfect predictor. Brackets hold 95 % bootstrap intervals over subnets and seeds of the
supernets. Rows marked * have one seed, and their intervals exclude the variation between seeds. A difference compares
with the supernet in *base*, on the same subnets and seeds."""


def chance(record: Record) -> str:
    """Return a sentence on the number of comparisons."""
    count = len(supernets(record)) - 1
    return f"{count} supernets are compared with a base: by chance, about {0.05 * count:.1f} intervals exclude 0."


def table(record: Record, truth: Truth) -> list[dict[str, Any]]:
    """Return a row for each variant, the best order of the subnets of equal MACs first."""
    rows, way = [], main_way(record)
    for name in supernets(record):
        group, scores = _rows(record, name), scores_of(record, truth, name)
        if not scores:
            continue
        all_seeds = stacked(scores)
        cells: dict[str, Any] = {"supernet": name + " *" * (len(scores) == 1)} | _cost(group)
        if way == "accuracy":
            cells["accuracy inside, %"] = f"{100 * np.nanmean(all_seeds):.1f}"
        each = [truth.tau(EQUAL, row[None]).value for row in scores.values()]
        cells["tau of each seed"] = ", ".join(f"{value:.2f}" for value in each)
        for of in GROUPS:
            cells[f"tau, {of}"] = truth.tau(of, all_seeds) if scored(truth, of, all_seeds) else ""
            if of != GROUPS[-1] and len(truth.seeds) > 1:
                cells[f"of the ceiling, {of}"] = truth.share(of, all_seeds)
        base = base_of(record, name)
        cells["base"] = base or ""
        for of in (EQUAL, WITHIN):
            both = pairs(scores, scores_of(record, truth, base)) if base else None
            cells[f"difference, {of}"] = truth.tau(of, *both) if both else ""
        rows.append(cells)
    return sorted(rows, key=lambda row: -row[f"tau, {EQUAL}"].value)


def by_way(record: Record, truth: Truth) -> list[dict[str, Any]]:
    """Return a row for each way of scoring: the mean over all supernets that have it."""
    rows, main = [], main_way(record)
    for way in ways(record):
        found = [
            pairs(scores_of(record, truth, name, way), scores_of(record, truth, name)) for name in supernets(record)
        ]
        scores, less = (np.concatenate(part) for part in zip(*filter(None, found), strict=True))
        rows.append({"score": way, "supernets": len(scores)} | _against(truth, scores, less, main, way != main))
    return rows


def by_way_of(record: Record, truth: Truth, variants: list[str]) -> list[dict[str, Any]]:
    """Return a row for each way of scoring some variants, without earlier checkpoints."""
    rows, main = [], main_way(record)
    for name in dict.fromkeys(variants):
        for way in (way for way in ways(record, name) if CHECKPOINT not in way):
            both = pairs(scores_of(record, truth, name, way), scores_of(record, truth, name))
            if both:
                rows.append({"supernet": name, "score": way} | _against(truth, *both, main, way != main))
    return rows


def _against(truth: Truth, scores: np.ndarray, less: np.ndarray, name: str, differs: bool) -> dict[str, Any]:
    """Return tau of scores [S, n], and the difference to the tau of others."""
    groups = (EQUAL, WITHIN)
    cells: dict[str, Any] = {f"tau, {group}": truth.tau(group, scores) for group in groups}
    return cells | {f"less {name}'s, {group}": truth.tau(group, scores, less) if differs else "" for group in groups}


def best(record: Record, truth: Truth) -> list[str]:
    """Return the variant with the highest tau at equal MACs, and its base."""
    found = {name: scores for name in supernets(record) if (scores := scores_of(record, truth, name))}
    name = max(found, key=lambda name: truth.tau(EQUAL, stacked(found[name])).value)
    return [name, base_of(record, name) or name]


def bias(record: Record, truth: Truth, variants: list[str]) -> list[dict[str, Any]]:
    """Return how much the scores of some variants favor each choice of a gene, in standard deviations of the truth.

    Scores and truth of the subnets of equal MACs are standardized. A cell is the mean of their difference over the
    subnets with a choice, and its standard error.
    """
    at = truth.at(EQUAL)
    residuals = {
        name: _standard(stacked(scores_of(record, truth, name))[:, at]).mean(0) - _standard(truth.mean_n[None, at])[0]
        for name in dict.fromkeys(variants)
    }
    rows = []
    for gene, values in genes(truth).items():
        labels, choices = binned(values[at])
        for i, choice in enumerate(choices):
            of = {name: residual[labels == i] for name, residual in residuals.items()}
            cells = {
                name: f"{r.mean():+.2f} +- {r.std(ddof=1) / len(r) ** 0.5:.2f}" for name, r in of.items() if len(r) > 1
            }
            rows.append(
                {"gene": gene, "choice": choice, "subnets": (labels == i).sum()} | dict.fromkeys(of, "") | cells
            )
    return rows


def _standard(rows: np.ndarray) -> np.ndarray:
    spread = rows.std(1, keepdims=True)
    return (rows - rows.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1)


def by_loss(record: Record, truth: Truth) -> list[dict[str, Any]]:
    """Return the agreement of each variant with the loss of the subnets. ``truth`` is by the loss."""
    rows = []
    for name in supernets(record):
        if scores := scores_of(record, truth, name):
            rows.append({"supernet": name} | {f"tau, {of}": truth.tau(of, stacked(scores)) for of in (EQUAL, WITHIN)})
    return rows


def _rows(record: Record, variant: str) -> list[dict[str, Any]]:
    return [row for row in record.of("supernet") if row["what"] == variant]


def _cost(group: list[dict[str, Any]]) -> dict[str, str]:
    """Return the mean cost of training a supernet: MACs of the forward passes, and hours of one core."""
    macs = [found for row in group if (found := row.get("training_macs", row.get("macs"))) is not None]
    seconds = np.mean([row.get("training_seconds", row["seconds"]) for row in group])
    return {
        "seeds": str(len(group)), "training MACs": f"{np.mean(macs):.2e}" if macs else "",
        "core hours": f"{seconds / 3600:.2f}",
    }  # fmt: skip
