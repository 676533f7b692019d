"""The study's pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from tests.benchmarks.fidelity import document, study
from tests.benchmarks.fidelity.agreement import agreement, tau
from tests.benchmarks.fidelity.record import Record

if TYPE_CHECKING:
    from tests.benchmarks.fidelity.document import Truth

DPI, BLUE, ORANGE, GREY = 110, "#2a6fbb", "#d9772b", "#999999"


def write(record: Record, truth: Truth, folder: Path) -> None:
    """``agreement.png``: tau of each supernet; ``scatter.png``: scores against truth; ``searches.png``."""
    _agreements(record, truth, folder / "agreement.png")
    _scatter(record, truth, folder / "scatter.png")
    picked = {name: document.found(record, name) for name in study.SEARCHED_ON}
    if any(picked.values()):
        _searches({name: ways for name, ways in picked.items() if ways}, folder / "searches.png")


def _save(path: Path) -> None:
    plt.tight_layout()
    plt.savefig(path, dpi=DPI, metadata={"Software": None})
    plt.close()


def _agreements(record: Record, truth: Truth, path: Path) -> None:
    names = list(dict.fromkeys(row["what"] for row in record.of("supernet")))
    scores = [document.scores_of(record, truth, name, "accuracy") for name in names]
    places = {group: truth.group(group) for group in document.GROUPS}
    found = {group: [agreement(tau, rows[:, at], truth.mean_n[at]) for rows in scores] for group, at in places.items()}
    order = np.argsort([estimate.value for estimate in found["all"]])
    plt.figure(figsize=(8, 0.36 * len(names) + 1.2))
    for shift, (group, color) in zip((0.13, -0.13), (("all", BLUE), ("equal", ORANGE)), strict=True):
        rows = [found[group][i] for i in order]
        values = np.array([row.value for row in rows])
        errors = [values - [row.low for row in rows], [row.high for row in rows] - values]
        label = "all nets" if group == "all" else "nets of equal MACs"
        plt.errorbar(
            values, np.arange(len(rows)) + shift, xerr=np.maximum(errors, 0), fmt="o", color=color, label=label
        )
        if len(truth.seeds_Rn) > 1:
            at = truth.group(group)
            ceiling = agreement(tau, truth.seeds_Rn[:1, at], truth.seeds_Rn[1, at]).value
            plt.axvline(ceiling, color=color, linestyle=":", label=f"{label}: one seed of the truth against the other")
    plt.yticks(range(len(names)), [names[i] for i in order])
    plt.xlabel("Kendall's tau of score and own training, 95 % interval")
    plt.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.3, -0.09), ncol=2)
    plt.grid(axis="x", alpha=0.3)
    _save(path)


def _scatter(record: Record, truth: Truth, path: Path) -> None:
    names = list(dict.fromkeys(row["what"] for row in record.of("supernet")))[:6]
    figure, axes = plt.subplots(2, 3, figsize=(9, 5.6), sharey=True)
    figure.supylabel("accuracy, trained alone", fontsize=9)
    for axis, name in zip(axes.flat, names, strict=False):
        _panel(axis, document.scores_of(record, truth, name, "accuracy")[0], truth, name)
    axes.flat[0].legend(fontsize=7)
    _save(path)


def _panel(axis: Axes, scores: np.ndarray, truth: Truth, name: str) -> None:
    equal = np.isin(np.arange(len(scores)), truth.group("equal"))
    for chosen, color, label in ((~equal, BLUE, "spread over the budget"), (equal, ORANGE, "equal MACs")):
        axis.scatter(scores[chosen], truth.mean_n[chosen], s=14, color=color, label=label)
    axis.set_title(f"{name}: tau {tau(scores, truth.mean_n)[0]:.2f}", fontsize=9)
    axis.set_xlabel("score in the supernet", fontsize=8)
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
