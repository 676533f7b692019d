"""Read the metrics of a run for charts: evenly spaced records, so a million of them cost little time and memory."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from vitas_ds.errors.reading import open_binary, parse_json_line
from vitas_ds.run.run_dir import RunDir

MAX_ROWS = 2000  # per stage; a chart draws 400 points
EVALUATION = b'"evaluation": true'


def read_thinned_metrics(run: RunDir, most: int = MAX_ROWS) -> list[dict[str, Any]]:
    """Return the records of ``metrics.jsonl``, in order: of each stage at most twice ``most``, and of its evaluations.

    The first and the last record of a stage are always among them. A stage with few records keeps them all.
    """
    if not run.metrics.exists():
        return []
    kept: dict[bytes, _Thinned] = {}
    for number, (kind, line) in enumerate(_lines(run)):
        kept.setdefault(kind, _Thinned(most)).add(number, line)
    rows = []
    for _, line in heapq.merge(*(thinned.all() for thinned in kept.values())):
        with suppress(ValueError):  # a killed job may leave an incomplete last line
            row = parse_json_line(line)
            if isinstance(row, dict) and row.keys() >= {"stage", "step"}:
                rows.append(row)
    return rows


class _Thinned:
    """Every line, or every second, fourth, ... line, so that at most ``2 * most`` remain; and the last line."""

    def __init__(self, most: int) -> None:
        self.most, self.every, self.count = most, 1, 0
        self.lines: list[tuple[int, bytes]] = []
        self.last = (-1, b"")

    def add(self, number: int, line: bytes) -> None:
        self.last = number, line
        if self.count % self.every == 0:
            self.lines.append(self.last)
            if len(self.lines) == 2 * self.most:
                self.lines, self.every = self.lines[::2], 2 * self.every
        self.count += 1

    def all(self) -> list[tuple[int, bytes]]:
        """Return the numbered lines, in order."""
        return self.lines if self.lines[-1] == self.last else [*self.lines, self.last]


def _lines(run: RunDir) -> Iterator[tuple[bytes, bytes]]:
    """Yield each line with its kind: its stage, and whether it is an evaluation. Lines are not parsed.

    A record starts with its stage, as ``LiveTracker`` writes it. Others have kind ``b""``.
    """
    with open_binary(run.metrics) as file:
        for line in file:
            start = line[:80].split(b'"', 4)
            stage = start[3] if len(start) > 4 and start[1] == b"stage" else b""
            yield (stage + EVALUATION if EVALUATION in line else stage), line
