"""Plots of the study."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from tests.benchmarks.fidelity import alone, comparison, longer, method_plot
from tests.benchmarks.fidelity.agreement import Estimate
from tests.benchmarks.fidelity.colors import BLUE, DPI, GREEN, GREY, ORANGE
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.scores import scores_of, stacked, supernets
from tests.benchmarks.fidelity.truth import EQUAL, WITHIN, Truth

COLORS = (BLUE, ORANGE, GREEN, GREY)
SHOWN = 6  # supernets in the scatter plot


def write(record: Record, truth: Truth, folder: Path) -> list[str]:
    """Write the plots into a folder and return their names.

    ``genes.png`` shows the accuracy by gene, ``seeds.png`` two trainings of each subnet, ``agreement.png`` tau of rules
    and supernets for both truths, ``scatter.png`` scores against accuracy, ``method.png`` what to set, and
    ``comparison.png`` whole searches.
    """
    _genes(truth, folder / "genes.png")
    names = ["genes.png"]
    if len(truth.seeds) > 1:
        _seeds(record, truth, folder / "seeds.png")
        names.append("seeds.png")
    _agreements(record, folder / "agreement.png")
    names.append("agreement.png")
    if supernets(record):
        _scatter(record, truth, folder / "scatter.png")
        names.append("scatter.png")
    if method_plot.write(record, truth, folder / "method.png"):
        names.append("method.png")
    if _comparison(record, folder / "comparison.png"):
        names.append("comparison.png")
    return names


def _save(path: Path, top: float = 1.0) -> None:
    plt.tight_layout(rect=(0, 0, 1, top))
    plt.savefig(path, dpi=DPI, metadata={"Software": None})
    plt.close()


def _genes(truth: Truth, path: Path) -> None:
    at, genes = truth.at(EQUAL), alone.genes(truth)
    figure, axes = plt.subplots(1, len(genes), figsize=(2.7 * len(genes), 3.2), sharey=True)
    for axis, (gene, values) in zip(axes, genes.items(), strict=True):
        for patch, color in zip(np.unique(truth.patch_n[at]), COLORS, strict=False):
            of = at[truth.patch_n[at] == patch]
            axis.scatter(values[of], 100 * truth.mean_n[of], s=14, color=color, alpha=0.8, label=f"patch {patch}")
        for choice in np.unique(values[at]) if np.issubdtype(values.dtype, np.integer) else ():
            mean = 100 * truth.mean_n[at[values[at] == choice]].mean()
            axis.scatter([choice], [mean], marker="_", s=300, color="black", linewidths=1.5)
        axis.set_xlabel(gene + (", mean of the layers" if gene == "heads" else ""), fontsize=9)
        axis.grid(alpha=0.3)
    for gene in ("patch size", "layers", "embed_dim"):
        axis = axes[list(genes).index(gene)]
        axis.set_xticks(np.unique(genes[gene][at]))
    axes[0].set_ylabel("accuracy, trained alone, %", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="upper center", ncol=4)
    _save(path, top=0.93)


def _seeds(record: Record, truth: Truth, path: Path) -> None:
    """Plot two trainings of each subnet of equal MACs, and if measured, twice the steps against the normal ones."""
    of = longer.read(record, truth)
    _, axes = plt.subplots(1, 1 + (of is not None), figsize=(4 * (1 + (of is not None)), 3.8), squeeze=False)
    at = truth.at(EQUAL)
    _against(axes[0, 0], truth.values_Rn[0, at], truth.values_Rn[1, at], truth.patch_n[at])
    axes[0, 0].set_xlabel("accuracy, first seed, %")
    axes[0, 0].set_ylabel("second seed, %")
    axes[0, 0].set_title(f"tau {truth.seed_tau(EQUAL)}", fontsize=9)
    if of is not None:
        before, after = (np.mean(list(part.values()), 0) for part in (of.normal, of.longer))
        _against(axes[0, 1], before, after, of.patch_n)
        axes[0, 1].set_xlabel("accuracy, mean of the seeds, %")
        axes[0, 1].set_ylabel("of twice the steps, %")
    axes[0, 0].legend(fontsize=8)
    _save(path)


def _against(axis: Axes, x: np.ndarray, y: np.ndarray, patch: np.ndarray) -> None:
    for size, color in zip(np.unique(patch), COLORS, strict=False):
        axis.scatter(100 * x[patch == size], 100 * y[patch == size], s=16, color=color, label=f"patch {size}")
    low, high = 100 * min(x.min(), y.min()), 100 * max(x.max(), y.max())
    axis.plot([low, high], [low, high], color=GREY, linewidth=0.8)
    axis.grid(alpha=0.3)


def _agreements(record: Record, path: Path) -> None:
    truths = {"accuracy": Truth(record), "loss": Truth(record, "loss")}
    found = {by: _taus(record, truth) for by, truth in truths.items()}
    order = sorted(found["accuracy"], key=lambda name: found["accuracy"][name][0].value)
    figure, axes = plt.subplots(1, 2, sharey=True, figsize=(11, 0.3 * len(order) + 1.6))
    for axis, (by, truth) in zip(axes, truths.items(), strict=True):
        _taus_panel(axis, truth, [found[by][name] for name in order])
        axis.set_title(f"truth: {by}", fontsize=10)
    axes[0].set_yticks(range(len(order)), order)
    figure.supxlabel("Kendall's tau with own training, 95 % interval", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="upper center", ncol=4)
    _save(path, top=1 - 0.4 / figure.get_figheight())


def _taus(record: Record, truth: Truth) -> dict[str, list[Estimate]]:
    """Return tau of each rule and each supernet variant in each group."""
    scores = {f"rule: {name}": row[None] for name, row in truth.rules().items()}
    scores |= {name: stacked(found) for name in supernets(record) if (found := scores_of(record, truth, name))}
    return {name: [truth.tau(group, rows) for group in (EQUAL, WITHIN)] for name, rows in scores.items()}


def _taus_panel(axis: Axes, truth: Truth, rows: list[list[Estimate]]) -> None:
    for i, (group, color) in enumerate(((EQUAL, BLUE), (WITHIN, ORANGE))):
        values, lows, highs = np.array([[row[i].value, row[i].low, row[i].high] for row in rows]).T
        errors = np.maximum([values - lows, highs - values], 0)
        y = np.arange(len(rows)) + 0.15 * (1 - 2 * i)
        axis.errorbar(values, y, xerr=errors, fmt="o", ms=4, color=color, label=group)
        if len(truth.seeds) > 1:
            axis.axvline(truth.ceiling(group).value, color=color, linestyle=":", label=f"{group}: a perfect predictor")
    axis.axvline(0, color="black", linewidth=0.6)
    axis.grid(axis="x", alpha=0.3)


def _scatter(record: Record, truth: Truth, path: Path) -> None:
    """Plot the scores of the supernets with the highest tau, first seed, against the accuracy."""
    found = {name: scores for name in supernets(record) if (scores := scores_of(record, truth, name))}
    best = sorted(found, key=lambda name: -truth.tau(EQUAL, stacked(found[name])).value)[:SHOWN]
    columns, lines = min(3, len(best)), -(-len(best) // 3)
    figure, axes = plt.subplots(lines, columns, figsize=(9, 3.1 * lines), sharey=True, squeeze=False)
    figure.supylabel("accuracy, trained alone, %", fontsize=9)
    for axis in axes.flat[len(best) :]:
        axis.remove()
    for axis, name in zip(axes.flat, best, strict=False):
        _panel(axis, found[name][min(found[name])], truth, name)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="upper center", ncol=4)
    _save(path, top=1 - 0.25 / figure.get_figheight())


def _panel(axis: Axes, scores: np.ndarray, truth: Truth, name: str) -> None:
    at = truth.at(EQUAL)
    for patch, color in zip(np.unique(truth.patch_n[at]), COLORS, strict=False):
        of = at[truth.patch_n[at] == patch]
        axis.scatter(scores[of], 100 * truth.mean_n[of], s=16, color=color, label=f"patch {patch}")
    equal, within = (truth.tau(group, scores[None]).value for group in (EQUAL, WITHIN))
    axis.set_title(f"{name}:\ntau {equal:.2f}, within a patch size {within:.2f}", fontsize=8)
    axis.set_xlabel("score in the supernet, first seed", fontsize=8)
    axis.grid(alpha=0.3)


def _comparison(record: Record, path: Path) -> bool:
    """Plot the accuracy that each search ends with, a panel for each budget. Returns False if there is none."""
    found = {
        budget: methods for budget in comparison.budgets(record) if (methods := comparison.methods(record, budget))
    }
    if not found:
        return False
    most = max(map(len, found.values()))
    _, axes = plt.subplots(1, len(found), figsize=(6 * len(found) + 1, 0.34 * most + 1.2), squeeze=False)
    for axis, ((low, high), methods) in zip(axes[0], found.items(), strict=True):
        for y, method in enumerate(methods.values()):
            values = 100 * np.array(method.accuracies)
            axis.scatter(values, np.full(len(values), y), s=16, color=BLUE, alpha=0.7)
            axis.scatter([values.mean()], [y], marker="|", s=160, color="black")
        axis.set_yticks(range(len(methods)), [f"{name}, {method.units:.1f} U" for name, method in methods.items()])
        axis.invert_yaxis()
        axis.set_xlabel("accuracy of the network found, trained alone, %", fontsize=9)
        axis.set_title(f"{low / 1e6:.3g}M to {high / 1e6:.3g}M MACs", fontsize=10)
        axis.grid(axis="x", alpha=0.3)
    _save(path)
    return True
