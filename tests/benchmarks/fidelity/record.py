"""The record of the study: one JSON object per line, written after each job."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from vitas_ds.errors import UserError

KEYS = ("job", "kind", "what", "seed", "seconds", "machine", "git", "torch")  # of each row


class Record:
    """Finished jobs by name. A line that a kill left incomplete is removed."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, dict[str, dict[str, Any]]()
        if path.exists():
            whole = path.read_bytes().rpartition(b"\n")
            rows = [_row(line, f"{path}:{i}") for i, line in enumerate(whole[0].splitlines(), 1)]
            self.rows = {row["job"]: row for row in rows}
            if whole[2]:
                with path.open("rb+") as file:
                    file.truncate(len(whole[0]) + len(whole[1]))

    def add(self, row: dict[str, Any]) -> None:
        """Append a row and flush it to disk."""
        self.rows[row["job"]] = row
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the rows of one kind of job in the order of completion."""
        return [row for row in self.rows.values() if row["kind"] == kind]


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not row.keys() >= set(KEYS):
        raise UserError(f"{where}: not a row of this study: {line[:40].decode(errors='replace')}")
    return row


def pack(correct_I: np.ndarray) -> str:
    """Return a row of booleans as text: bits in base64, and their number."""
    return f"{len(correct_I)}:{base64.b64encode(np.packbits(correct_I)).decode()}"


def unpack(text: str) -> np.ndarray:
    """Reverse ``pack``: 0 or 1 for each image."""
    count, _, bits = text.partition(":")
    return np.unpackbits(np.frombuffer(base64.b64decode(bits), np.uint8), count=int(count))
