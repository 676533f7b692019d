"""What the study found, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.study import Size


def headline(row: dict[str, Any]) -> str:
    """A row of the record on a line of progress."""
    numbers = [f"{key} {row[key]:.4g}" for key in ("accuracy", "loss", "steps") if key in row]
    return ", ".join([*numbers, f"{row['seconds']} s"])


def write(record: Record, size: Size, folder: Path) -> Path:
    """For now, the record is the document."""
    return record.path
