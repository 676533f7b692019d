"""Read the metrics of a run for charts: evenly spaced records, so a million of them cost little time and memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from vitas_ds.errors.reading import parse_json_line
from vitas_ds.run.run_dir import RunDir

MAX_ROWS = 4000  # per stage; a chart draws 400 points
EVALUATION = b'"evaluation": true'


def read_thinned_metrics(run: RunDir, most: int = MAX_ROWS) -> list[dict[str, Any]]:
    """Return the records of ``metrics.jsonl``, in order: of each stage at most about ``most`` plus the evaluations.

    The first and the last record of a stage are always among them. A stage with few records keeps them all.
    """
    if not run.metrics.exists():
        return []
    counts = Counter(kind for kind, _ in _lines(run))
    seen: Counter[bytes] = Counter()
    rows = []
    for kind, line in _lines(run):
        index, last, every = seen[kind], counts[kind] - 1, -(-counts[kind] // most)
        seen[kind] += 1
        if index % every and index != last:
            continue
        with suppress(ValueError):  # a killed job may leave an incomplete last line
            row = parse_json_line(line)
            if isinstance(row, dict) and row.keys() >= {"stage", "step"}:
                rows.append(row)
    return rows


def _lines(run: RunDir) -> Iterator[tuple[bytes, bytes]]:
    """Yield each line with its kind: its stage, and whether it is an evaluation. Lines are not parsed.

    A record starts with its stage, as ``LiveTracker`` writes it. Others have kind ``b""``.
    """
    with run.metrics.open("rb") as file:
        for line in file:
            start = line[:80].split(b'"', 4)
            stage = start[3] if len(start) > 4 and start[1] == b"stage" else b""
            yield (stage + EVALUATION if EVALUATION in line else stage), line
