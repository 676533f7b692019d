"""Read ``finalists.jsonl``: results and decisions of the rungs. Importing this module does not import torch."""

from __future__ import annotations

import math
from typing import Any

from vitas_ds.errors import UserError
from vitas_ds.errors.reading import parse_json_line, read_text
from vitas_ds.run.run_dir import RunDir

Row = dict[str, Any]
"""A line of ``finalists.jsonl``."""
ROW = {"candidate", "rung", "accuracy", "loss", "macs"}  # keys that every line has


def read_rows(run: RunDir) -> list[Row]:
    """Return the lines of ``finalists.jsonl``; empty without finalists.

    Raises:
        UserError: A line is not JSON.
    """
    if not run.finalists.exists():
        return []
    try:
        rows = [parse_json_line(line) for line in read_text(run.finalists).splitlines()]
    except ValueError as error:
        raise UserError(f"{run.finalists}: not JSON ({error}); remove it, the search writes it again") from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not row.keys() >= ROW:
            raise UserError(f"{run.finalists}:{number}: not a finalist; remove the file, the search writes it again")
    return rows


def curves_of(rows: list[Row]) -> dict[int, list[Row]]:
    """Return the rows of each candidate in the order of the rungs, best candidate first."""
    curves: dict[int, list[Row]] = {}
    for row in rows:
        curves.setdefault(row["candidate"], []).append(row)
    return dict(sorted(curves.items(), key=lambda item: (-item[1][-1]["rung"], order_of(item[1][-1]))))


def order_of(row: Row) -> tuple[float, float, int, int]:
    """Return the sort key within a rung: accuracy, then loss, MACs, and place in the search."""
    loss = math.inf if row["loss"] is None or math.isnan(row["loss"]) else row["loss"]
    return -row["accuracy"], loss, row["macs"], row["candidate"]
