"""A figure of what to set: how long to train, and how many networks."""
# n nets

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from tests.benchmarks.fidelity import agreement, corrections, early
from tests.benchmarks.fidelity.colors import BLUE, DPI, GREEN, GREY, ORANGE
from tests.benchmarks.fidelity.corrections import COUNTS
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.scores import scores_of, stacked, supernets
from tests.benchmarks.fidelity.supernets import NESTED, NETS, VARIANTS, Variant
from tests.benchmarks.fidelity.truth import EQUAL, WITHIN, Truth

FITTED = 16  # subnets of the correction in the panels on length and finalists
KEPT = (1, 2, 3, 4, 6, 8, 12)  # finalists


def write(record: Record, truth: Truth, path: Path) -> bool:
    """Write the figure. Returns False without corrected scores of the supernet *nested*."""
    if not possible(record) or not corrections.table(record, truth):
        return False
    figure, axes = plt.subplots(2, 2, figsize=(9.5, 7))
    for axis, draw in zip(axes.flat, (_lengths, _corrections, _shorter, _finalists), strict=True):
        draw(axis, record, truth)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    plt.close(figure)
    return True


def possible(record: Record) -> bool:
    """Return whether the supernet *nested* is trained."""
    return NESTED.name in supernets(record)


def lengths(record: Record) -> dict[float, str]:
    """Return the trained lengths of *nested* in U, and their variants."""
    same = {name: v for name, v in VARIANTS.items() if name in supernets(record) and v.supernet == NESTED.supernet}
    return dict(sorted((NETS * v.length, name) for name, v in same.items() if _only_longer(v)))


def _only_longer(variant: Variant) -> bool:
    return replace(variant, name=NESTED.name, length=NESTED.length) == NESTED


def _lengths(axis: Axes, record: Record, truth: Truth) -> None:
    found = lengths(record)
    raw = [truth.tau(EQUAL, stacked(scores_of(record, truth, name))).value for name in found.values()]
    axis.plot(list(found), raw, "o-", color=ORANGE, label="scores")
    fitted = [corrections.mean_tau(record, truth, name, FITTED) for name in found.values()]
    axis.plot(list(found), fitted, "o-", color=BLUE, label=f"corrected by {FITTED} short trainings")
    genes = corrections.mean_tau(record, truth, None, FITTED)
    axis.axhline(genes, color=GREY, linestyle="--", label="no supernet: the genes of these trainings")
    axis.set_xscale("log", base=2)
    axis.set_xticks(list(found), [f"{length:g}" for length in found])
    axis.set(title="How long to train the supernet", xlabel="supernet, in trainings of one network (U)")
    axis.set_ylabel("Kendall's tau at equal MACs")


def _corrections(axis: Axes, record: Record, truth: Truth) -> None:
    shown = {None: (GREY, "no supernet: genes alone"), NESTED.name: (BLUE, f"supernet of {NETS} U")}
    for name, (color, label) in shown.items():
        axis.plot(
            COUNTS, [corrections.mean_tau(record, truth, name, c) for c in COUNTS], "o-", color=color, label=label
        )
    raw = truth.tau(EQUAL, stacked(scores_of(record, truth, NESTED.name)))
    axis.axhline(raw.value, color=ORANGE, linestyle="--", label=f"its scores, not corrected: {raw}")
    axis.axhline(truth.ceiling(EQUAL).value, color=GREEN, linestyle=":", label="a perfect predictor")
    axis.set(
        title="How many networks to correct the scores with", xlabel="networks, each trained alone for 1/4 of the steps"
    )
    axis.set_ylabel("Kendall's tau of the others")


def _shorter(axis: Axes, record: Record, truth: Truth) -> None:
    rows = [row for row in early.table(record, truth) if row["score"] == "accuracy"]
    shares = [float(row["part of the training"]) for row in rows]
    for group, color in ((EQUAL, BLUE), (WITHIN, ORANGE)):
        found = [row[f"tau, {group}"] for row in rows]
        axis.plot(shares, [x.value for x in found], "o-", color=color, label=group)
        axis.fill_between(shares, [x.low for x in found], [x.high for x in found], color=color, alpha=0.15)
    axis.set_xscale("log", base=2)
    axis.set_xticks(shares, [f"{share:g}" for share in shares])
    axis.set(title="How long to train finalists", xlabel="part of the whole training")
    axis.set_ylabel("Kendall's tau with another seed's end")


def _finalists(axis: Axes, record: Record, truth: Truth) -> None:
    pairs = list(corrections.held_out(record, truth, NESTED.name, FITTED))
    kept = [k for k in KEPT if k < len(pairs[0][0])]
    picked = {
        "random ones": (GREY, [np.mean([agreement.random_regret(b, k) for _, b in pairs]) for k in kept]),
        "of corrected scores": (BLUE, [np.mean([agreement.regret(a[None], b, k) for a, b in pairs]) for k in kept]),
    }
    for name, (color, losses) in picked.items():
        axis.plot(kept, 100 * np.array(losses), "o-", color=color, label=name)
    axis.set(title="How many finalists to train", xlabel=f"finalists, the first of {len(pairs[0][0])} networks")
    axis.set_ylabel("best finalist minus best network, %")
