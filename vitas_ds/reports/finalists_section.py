"""The finalists of a search on a page: accuracy after each rung, who dropped out, and the cost."""

from __future__ import annotations

from typing import Any

from vitas_ds.config import Config
from vitas_ds.reports.svg import Axis, Series, chart, short
from vitas_ds.run.metrics import clock
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.summary import read_summary
from vitas_ds.search.trials.rows import Row, curves_of, read_rows

ACCURACY = Axis("accuracy on the search images", percent=True)


def section(run: RunDir, config: Config) -> dict[str, Any]:
    """Return chart, table and cost for the template; empty values without finalists."""
    rows = read_rows(run) if config.search.finalists.count else []
    curves = list(curves_of(rows).values())
    steps = sorted({row["step"] for row in rows})
    return {
        "charts": [curves_chart(curves)],
        "cost": cost(run) if curves else "",
        "header": ("candidate", *(f"step {step:,}" for step in steps), "search score", "MACs"),
        "rows": [_table_row(curve, steps) for curve in curves],
    }


def curves_chart(curves: list[list[Row]]) -> str:
    """Draw the accuracy of each candidate over its steps; mark where candidates dropped out."""
    dropped = [curve[-1] for curve in curves if not (curve[-1]["goes_on"] or curve[-1]["wins"])]
    lines = [
        Series(
            "" if place else "best finalist" if curve[-1]["wins"] else "best so far",
            [row["step"] for row in curve], [row["accuracy"] for row in curve],
            1 if place else 3, dots=True, tips=[_tip(row) for row in curve],
            errors=None if place else [row.get("stderr") for row in curve],
        )
        for place, curve in enumerate(curves)
    ]  # fmt: skip
    marks = Series(
        "dropped out", [row["step"] for row in dropped], [row["accuracy"] for row in dropped], 2, line=False, dots=True,
        tips=[f"{_tip(row)}, dropped out" for row in dropped],
    )  # fmt: skip
    return chart("Accuracy of the finalists", [*lines[1:], *lines[:1], marks], Axis("step", whole=True), ACCURACY)


def cost(run: RunDir) -> str:
    """Return the cost as a sentence; empty before the finalists have finished."""
    numbers = read_summary(run).get("search", {}).get("finalists") or {}
    if not numbers:
        return ""
    return (
        f"{numbers['candidates']} candidates in {numbers['rungs']} rungs: {numbers['macs']:.3g} MACs, "
        f"{short(numbers['retrainings'])} times one retraining, {clock(numbers['seconds'])} in total."
    )


def _table_row(curve: list[Row], steps: list[int]) -> tuple[str, ...]:
    by_step = {row["step"]: f"{row['accuracy']:.2%} ± {row['stderr']:.2%}" for row in curve}
    first = curve[0]
    name = f"{first['candidate']}. of the search"
    return name, *(by_step.get(step, "") for step in steps), f"{first['score']:.2%}", short(first["macs"])


def _tip(row: Row) -> str:
    return (
        f"candidate {row['candidate']} of the search: {row['accuracy']:.2%} ± {row['stderr']:.2%} at step "
        f"{row['step']:,}, loss {row['loss'] or 0:.3f}, {short(row['macs'])} MACs, search score {row['score']:.2%}"
    )
