"""Many file names in one array of bytes: 14 million names take 0.4 GB, which the ranks of a node share."""
# n names of this set, N names in the array

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

CHUNK = 1 << 16  # names


class Names(Sequence[str]):
    """Names in an array of bytes, or some of them.

    Args:
        text: uint8, the names, each followed by a zero byte.
        ends: int64 [N], index after the zero byte of each name.
        chosen: int32 or int64 [n], the names of this set; None for all.
    """

    def __init__(self, text: np.ndarray, ends: np.ndarray, chosen: np.ndarray | None = None) -> None:
        self.text, self.ends, self.chosen = text, ends, chosen

    def __len__(self) -> int:
        return len(self.ends) if self.chosen is None else len(self.chosen)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...

    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        row = int(index) % len(self) if self.chosen is None else int(self.chosen[index])
        return os.fsdecode(self._bytes(row, row + 1)[:-1])

    def __iter__(self) -> Iterator[str]:
        for part in self.runs():
            yield from os.fsdecode(part[:-1]).split("\0")

    def take(self, indices: np.ndarray) -> Names:
        """Return the names at ``indices`` [m]."""
        rows = indices if self.chosen is None else self.chosen[indices]
        small = len(self.ends) < 2**31
        return Names(self.text, self.ends, rows.astype(np.int32) if small else rows)

    def runs(self) -> Iterator[bytes]:
        """Yield all names in order, in parts of up to ``CHUNK`` names, each name followed by a zero byte."""
        if self.chosen is None:
            for first in range(0, len(self), CHUNK):
                yield self._bytes(first, min(first + CHUNK, len(self)))
            return
        for first in range(0, len(self), CHUNK):
            rows = self.chosen[first : first + CHUNK]
            cuts = np.flatnonzero(np.diff(rows) != 1) + 1  # between distant names
            starts, stops = rows[np.r_[0, cuts]].tolist(), (rows[np.r_[cuts - 1, len(rows) - 1]] + 1).tolist()
            yield b"".join(self._bytes(start, stop) for start, stop in zip(starts, stops, strict=True))

    def _bytes(self, first: int, stop: int) -> bytes:
        start = self.ends[first - 1] if first else 0
        return self.text[start : self.ends[stop - 1]].tobytes()


def choose(names: Sequence[str], indices: np.ndarray) -> Sequence[str]:
    """Return the names at ``indices`` [m]; a tuple if ``names`` is not a ``Names``."""
    return names.take(indices) if isinstance(names, Names) else tuple(names[i] for i in indices)


def joined(names: Sequence[str]) -> Iterator[bytes]:
    """Yield the parts of all names, joined by zero bytes."""
    if not isinstance(names, Names):
        yield "\0".join(names).encode(errors="surrogateescape")
        return
    last = b""
    for part in names.runs():
        yield last + part[:-1]
        last = b"\0"
