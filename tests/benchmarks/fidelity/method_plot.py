"""A figure of what to set: how long to train, how many networks, and whether to search at all."""
# n nets

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from tests.benchmarks.fidelity import agreement, comparison, corrections, early
from tests.benchmarks.fidelity.colors import BLUE, DPI, GREEN, GREY, ORANGE
from tests.benchmarks.fidelity.corrections import COUNTS
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.scores import scores_of, stacked, supernets
from tests.benchmarks.fidelity.supernets import NESTED, NETS, VARIANTS, Variant
from tests.benchmarks.fidelity.truth import EQUAL, WITHIN, Truth

FITTED = 16  # subnets of the correction in the panels on length and finalists
KEPT = (1, 2, 3, 4, 6, 8, 12)  # finalists
SCORED = (1, 2, 4, 8, 16, 24)  # candidates
SEARCHED = {"supernet, random search": 300, "regression": 10_000}  # candidates of the searches of the study
BY_HAND = "by hand: "


def write(record: Record, truth: Truth, path: Path) -> bool:
    """Write the figure. Returns False without corrected scores of the supernet *nested*."""
    if not possible(record) or not corrections.table(record, truth):
        return False
    panels = [_lengths, _corrections, _shorter, _finalists, _candidates]
    panels += [_against_hand] * bool(_ends(record))
    figure, axes = plt.subplots(3, 2, figsize=(9.5, 10.5))
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, draw in zip(axes.flat, panels, strict=False):
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


def _candidates(axis: Axes, record: Record, truth: Truth) -> None:
    at = truth.at(EQUAL)
    counts = [k for k in SCORED if k <= len(at) - FITTED]
    searches = _ends(record)
    shown = {None: (GREY, "genes alone", "regression"), NESTED.name: (BLUE, "corrected", "supernet, random search")}
    for supernet, (color, label, search) in shown.items():
        pairs = list(corrections.held_out(record, truth, supernet, FITTED))
        values = [np.mean([agreement.first_choice(a, b, k) for a, b in pairs]) for k in counts]
        axis.plot(counts, 100 * np.array(values), "o-", color=color, label=f"{label}, of the {len(at)} networks")
        if search in searches:
            ends = 100 * np.array(searches[search].accuracies)
            axis.plot([SEARCHED[search]] * len(ends), ends, "s", color=color, label=f"{label}, searches")
    axis.axhline(100 * truth.mean_n[at].max(), color=GREEN, linestyle=":", label=f"the best of the {len(at)}")
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.set(title="How many candidates to score", xlabel="candidates", ylabel="accuracy of the top-scored one, %")


def _against_hand(axis: Axes, record: Record, truth: Truth) -> None:
    found = _ends(record)
    for name, method in found.items():
        if name.startswith(BY_HAND):
            axis.axhline(_percent(method), color=GREY, linestyle="--", zorder=1)
            axis.text(1, _percent(method), f"{name}, 0 U", fontsize=8, va="bottom", ha="right",
                      transform=axis.get_yaxis_transform())  # fmt: skip
    searches = sorted((method for method in found.values() if method.units > 0), key=_percent)
    for finalists, color, label in (
        (True, BLUE, "searches that train finalists"), (False, ORANGE, "searches without finalists")
    ):  # fmt: skip
        own = [method for method in searches if _trains(method) == finalists]
        axis.scatter([m.units for m in own], [_percent(m) for m in own], color=color, label=label)
        for i, m in enumerate(own):
            side = -11 if i % 2 else 5  # the letters of neighbors would overlap
            axis.annotate(m.letter[0], (m.units, _percent(m)), (side, -3), textcoords="offset points")
    axis.set(title="When a network scaled by hand is enough", xlabel="compute of the search (U)")
    axis.set_xlim(0)
    axis.set_ylabel("accuracy of the network found, %")


def _percent(method: comparison.Method) -> float:
    return 100 * float(np.mean(method.accuracies))


def _trains(method: comparison.Method) -> bool:
    """Return whether a search chooses by real trainings in the end."""
    return method.letter not in ("b", "f") and "no finalists" not in method.letter


def _ends(record: Record) -> dict[str, comparison.Method]:
    """Return the methods of the larger budget."""
    budgets = comparison.budgets(record)
    return comparison.methods(record, budgets[0]) if budgets else {}
