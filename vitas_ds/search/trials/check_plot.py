"""Figure of the check of a supernet: search/figures/check.png."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vitas_ds.run.files import replacing
from vitas_ds.search.colors import BLUE, GREEN, ORANGE
from vitas_ds.search.trials.agreement import Estimate


def save_figure(result: dict[str, Any], folder: Path) -> Path:
    """Draw the accuracy of the networks of ``check.json`` over their scores. Return the path of the figure."""
    from matplotlib.figure import Figure  # ranks without a figure do not need matplotlib
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(5.5, 4.5), layout="constrained")
    axes, rows = figure.subplots(), result["nets"]
    for i, patch_size in enumerate(sorted({row["spec"]["patch_size"] for row in rows})):
        own = [row for row in rows if row["spec"]["patch_size"] == patch_size]
        scores, truth = ([row[name] for row in own] for name in ("score", "accuracy"))
        axes.errorbar(scores, truth, xerr=[row["stderr"] or 0.0 for row in own], fmt="o", ms=5, elinewidth=0.7,
                      color=(BLUE, ORANGE, GREEN)[i % 3], label=f"patch size {patch_size}")  # fmt: skip
    axes.set(xlabel="score by the supernet", ylabel=f"accuracy after {result['steps']:,} steps alone")
    axes.set_title(f"Kendall's tau {Estimate(**result['tau'])}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.25)
    axes.legend()
    path = folder / "check.png"
    with replacing(path) as aside:
        figure.savefig(aside, dpi=110, format="png")
    return path
