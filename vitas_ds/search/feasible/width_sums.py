"""What the widths of some layers can sum to, in how many orders, and random ones of a given sum. No torch."""
# K nets, L positions, W widths

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class WidthSums:
    """What the widths of k layers can sum to, and in how many orders. ``cell``: all k widths are the same."""

    widths: np.ndarray  # [W]
    unit: int  # greatest common divisor of the widths
    ways: np.ndarray  # [L + 1, largest sum / unit + 1] number of width sequences of that length and sum
    cell: bool

    def sums(self, depth: int) -> np.ndarray:
        """Every sum of ``depth`` widths, ascending."""
        return np.flatnonzero(self.ways[depth]) * self.unit

    def count(self, depth: int) -> np.ndarray:
        """The number of sequences behind each of ``sums(depth)``."""
        return self.ways[depth][self.ways[depth] > 0]

    def fill(self, depths: np.ndarray, totals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Indices of widths [K, L] that sum to ``totals`` over the first ``depths`` positions, 0 beyond.

        Each sequence of that sum is equally likely.
        """
        positions = len(self.ways) - 1
        if self.cell:
            index = np.searchsorted(self.widths, totals // np.maximum(depths, 1))
            return index[:, None] * (np.arange(positions) < depths[:, None])
        left, steps = totals // self.unit, self.widths // self.unit
        genes = np.zeros((len(totals), positions), np.int64)
        for i in range(positions):
            after = np.maximum(depths - i - 1, 0)
            rest = left[:, None] - steps
            weight = np.where(rest >= 0, self.ways[after[:, None], np.maximum(rest, 0)], 0.0).cumsum(1)
            pick = (rng.random((len(totals), 1)) * weight[:, -1:] >= weight).sum(1)
            genes[:, i] = np.where(i < depths, pick, 0)
            left = left - np.where(i < depths, steps[genes[:, i]], 0)
        return genes

    def sequences(self, depth: int, total: int) -> Iterator[tuple[int, ...]]:
        """Every sequence of indices with that sum."""
        if self.cell:
            yield (int(np.searchsorted(self.widths, total // depth)),) * depth
        elif depth == 0:
            yield ()
        else:
            for i, width in enumerate(self.widths.tolist()):
                if width <= total and self.ways[depth - 1, (total - width) // self.unit]:
                    for rest in self.sequences(depth - 1, total - width):
                        yield (i, *rest)


def width_sums(widths: tuple[int, ...], positions: int, cell: bool) -> WidthSums:
    """The sums of 0 to ``positions`` widths."""
    unit = math.gcd(*widths)
    ways = np.zeros((positions + 1, positions * widths[-1] // unit + 1))
    ways[0, 0] = 1
    for k in range(1, positions + 1):
        for width in widths:
            if cell:
                ways[k, k * width // unit] = 1
            else:
                ways[k, width // unit :] += ways[k - 1, : ways.shape[1] - width // unit]
    return WidthSums(np.array(widths), unit, ways, cell)
