"""A table of scores in arrays: 0.2 kB per score, where an object per score takes 2 kB."""

from __future__ import annotations

import json
import math
from array import array
from hashlib import blake2b
from typing import Any

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.search.scoring.candidate import Score

Key = bytes
"""Digest of a canonical subnet and a number of images."""

KEY_SIZE = 16  # bytes: two of a million subnets have the same digest with a probability of 1e-27
NO_COUNTS = (-1, -1, -1, -1)
Counts = tuple[int, int, int, int]


def key(spec: SubnetSpec, images: int) -> Key:
    """Return the key of a score: canonical subnet and number of images."""
    return key_of_json(json.dumps(spec.to_dict()).encode(), str(images).encode())


def key_of_json(spec: bytes, images: bytes) -> Key:
    """Return the key of a score, from the JSON of ``SubnetSpec.to_dict`` and of the number of images."""
    return blake2b(spec + images, digest_size=KEY_SIZE).digest()


class ScoreTable:
    """Scores by key. A pickled table is small, so rank 0 can send it to all ranks."""

    def __init__(self) -> None:
        self._rows: dict[Key, int] = {}
        self._numbers = array("d")  # value and standard error (nan if unknown)
        self._integers = array("q")  # images and counts (-1 if unknown)
        self._points: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: Key) -> bool:
        return name in self._rows

    def get(self, name: Key) -> Score | None:
        """Return the score of a key, or None."""
        row = self._rows.get(name)
        if row is None:
            return None
        value, stderr = self._numbers[2 * row : 2 * row + 2]
        images, *counts = self._integers[5 * row : 5 * row + 5]
        known = None if counts[0] < 0 else (counts[0], counts[1], counts[2], counts[3])
        return Score(value, None if math.isnan(stderr) else stderr, images, known, self._points.get(row))

    def count(self, images: int) -> int:
        """Return the number of scores on this many images."""
        return self._integers[::5].count(images)

    def add(self, name: Key, score: Score) -> None:
        """Add a score. The last one of a key counts."""
        stderr = math.nan if score.stderr is None else score.stderr
        self.append(name, score.value, stderr, score.images, score.counts or NO_COUNTS)
        if score.points is not None:
            self.set_points(name, score.points)

    def append(self, name: Key, value: float, stderr: float, images: int, counts: Counts) -> None:
        """Add the parts of a score: NaN and ``NO_COUNTS`` where they are unknown."""
        self._rows[name] = len(self._numbers) // 2
        self._numbers.extend((value, stderr))
        self._integers.extend((images, *counts))

    def set_points(self, name: Key, points: str) -> None:
        """Set the points of each image of a score in the table."""
        self._points[self._rows[name]] = points

    def __getstate__(self) -> tuple[Any, ...]:
        rows = array("q", self._rows.values())
        return b"".join(self._rows), rows, self._numbers, self._integers, self._points

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        names, rows, self._numbers, self._integers, self._points = state
        keys = (names[i : i + KEY_SIZE] for i in range(0, len(names), KEY_SIZE))
        self._rows = dict(zip(keys, rows, strict=True))
