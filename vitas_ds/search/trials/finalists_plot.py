"""Figure and table of the finalists: accuracy after each rung, and who dropped out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitas_ds.run.files import replacing
from vitas_ds.search.colors import BLUE, GREEN
from vitas_ds.search.trials.rows import Row, curves_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = (
    "candidate", "rung", "step", "accuracy", "stderr", "loss", "seconds", "goes_on", "wins", "score", "macs",
)  # fmt: skip


def save_figure(rows: list[Row], folder: Path) -> Path:
    """Draw the finished rungs to ``finalists.png``, atomically. Return its path."""
    path = folder / "finalists.png"
    with replacing(path) as aside:
        curves_figure(rows).savefig(aside, dpi=110, format="png")
    return path


def table_rows(rows: list[Row]) -> list[list[Any]]:
    """Return one table row of ``COLUMNS`` per candidate and rung."""
    return [[row[name] for name in COLUMNS] for row in rows]


def curves_figure(rows: list[Row]) -> Figure:
    """Plot the accuracy of each candidate against its steps; a cross marks where it dropped out."""
    from matplotlib.figure import Figure  # retrain imports this module, and does not need matplotlib
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for place, curve in enumerate(curves_of(rows).values()):
        steps, values = [row["step"] for row in curve], [row["accuracy"] for row in curve]
        last, best = curve[-1], place == 0
        color, width = (GREEN, 2.0) if best else (BLUE, 1.0)
        label = f"candidate {last['candidate']}, {last['accuracy']:.4f}" if best else None
        axes.errorbar(steps, values, [row["stderr"] for row in curve], color=color, lw=width, marker="o", ms=3,
                      elinewidth=0.7, alpha=1.0 if best else 0.6, label=label)  # fmt: skip
        if not (last["goes_on"] or last["wins"]):
            axes.plot(steps[-1:], values[-1:], "x", color="black", ms=7)
    axes.set(xlabel="step", ylabel="accuracy on the search images", title=f"{len(curves_of(rows))} finalists")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(loc="lower right")
    axes.grid(alpha=0.25)
    return figure
