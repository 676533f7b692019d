"""Plots of the study."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from tests.benchmarks.fidelity import searched
from tests.benchmarks.fidelity.agreement import Estimate
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.truth import GROUPS, WITHIN, Truth, scores_of, stacked, supernets

DPI, BLUE, ORANGE, GREEN, GREY = 110, "#2a6fbb", "#d9772b", "#3a9a5b", "#999999"


def write(record: Record, truth: Truth, folder: Path) -> None:
    """Write the plots.

    ``agreement.png`` shows tau of rules and supernets for both truths, ``scatter.png`` scores against accuracy, and
    ``searches.png`` the accuracy of the subnets that the searches found.
    """
    _agreements(record, folder / "agreement.png")
    _scatter(record, truth, folder / "scatter.png")
    picked = {name: searched.found(record, name) for name in searched.on(record)}
    if any(picked.values()):
        _searches({name: ways for name, ways in picked.items() if ways}, folder / "searches.png")


def _save(path: Path, top: float = 1.0) -> None:
    plt.tight_layout(rect=(0, 0, 1, top))
    plt.savefig(path, dpi=DPI, metadata={"Software": None})
    plt.close()


def _agreements(record: Record, path: Path) -> None:
    truths = {"accuracy": Truth(record), "loss": Truth(record, "loss")}
    found = {by: _taus(record, truth) for by, truth in truths.items()}
    order = sorted(found["accuracy"], key=lambda name: found["accuracy"][name][0].value)
    figure, axes = plt.subplots(1, 2, sharey=True, figsize=(11, 0.36 * len(order) + 1.6))
    for axis, (by, truth) in zip(axes, truths.items(), strict=True):
        _taus_panel(axis, truth, [found[by][name] for name in order])
        axis.set_title(f"truth: {by}", fontsize=10)
    axes[0].set_yticks(range(len(order)), order)
    figure.supxlabel("Kendall's tau of score and own training, 95 % interval", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="upper center", ncol=3)
    _save(path, top=1 - 0.5 / figure.get_figheight())


def _taus(record: Record, truth: Truth) -> dict[str, list[Estimate]]:
    """Return tau of each rule and each supernet variant in each group."""
    scores = {f"rule: {name}": row[None] for name, row in truth.rules().items()}
    scores |= {name: stacked(scores_of(record, truth, name)) for name in supernets(record)}
    return {name: [truth.tau(group, rows) for group in GROUPS] for name, rows in scores.items()}


def _taus_panel(axis: Axes, truth: Truth, rows: list[list[Estimate]]) -> None:
    for i, (group, color) in enumerate(zip(GROUPS, (BLUE, ORANGE, GREEN), strict=True)):
        values, lows, highs = np.array([[row[i].value, row[i].low, row[i].high] for row in rows]).T
        errors = np.maximum([values - lows, highs - values], 0)
        label = {"all": "all nets", "equal": "nets of equal MACs"}.get(group, group)
        axis.errorbar(
            values, np.arange(len(rows)) + 0.2 * (1 - i), xerr=errors, fmt="o", ms=4, color=color, label=label
        )
        if len(truth.seeds_Rn) > 1:
            axis.axvline(truth.oracle(group).value, color=color, linestyle=":", label=f"{label}: a perfect oracle")
    axis.axvline(0, color="black", linewidth=0.6)
    axis.grid(axis="x", alpha=0.3)


def _scatter(record: Record, truth: Truth, path: Path) -> None:
    figure, axes = plt.subplots(2, 3, figsize=(9, 6), sharey=True)
    figure.supylabel("accuracy, trained alone", fontsize=9)
    for axis, name in zip(axes.flat, supernets(record), strict=False):
        scores = scores_of(record, truth, name)
        _panel(axis, scores[min(scores)], truth, name)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="upper center", ncol=4)
    _save(path, top=0.96)


def _panel(axis: Axes, scores: np.ndarray, truth: Truth, name: str) -> None:
    equal = np.isin(np.arange(len(scores)), truth.at("equal"))
    for patch, color in zip(np.unique(truth.patch_n), (BLUE, ORANGE), strict=True):
        for chosen, marker, label in ((~equal, "o", "spread"), (equal, "^", "equal MACs")):
            at = chosen & (truth.patch_n == patch)
            axis.scatter(
                scores[at], truth.mean_n[at], s=16, color=color, marker=marker, label=f"patch {patch}, {label}"
            )
    within = truth.tau(WITHIN, scores[None]).value
    axis.set_title(f"{name}:\ntau {truth.tau('all', scores[None]).value:.2f}, {WITHIN} {within:.2f}", fontsize=8)
    axis.set_xlabel("score in the supernet, first seed", fontsize=8)
    axis.grid(alpha=0.3)


def _searches(picked: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    _, axes = plt.subplots(1, len(picked), figsize=(4.2 * len(picked), 3.4), sharey=True, squeeze=False)
    for axis, (supernet, found) in zip(axes[0], picked.items(), strict=True):
        for row in zip(*found.values(), strict=True):
            axis.plot(range(len(found)), row, color=GREY, alpha=0.5, linewidth=1)
        for i, accuracy in enumerate(found.values()):
            axis.scatter([i] * len(accuracy), accuracy, color=BLUE, s=18)
            axis.scatter([i], [accuracy.mean()], color=ORANGE, marker="_", s=500)
        axis.set_xticks(range(len(found)), list(found))
        axis.set_title(f"scores of {supernet}", fontsize=10)
        axis.grid(axis="y", alpha=0.3)
    axes[0, 0].set_ylabel("accuracy of the pick, trained alone, %")
    _save(path)
