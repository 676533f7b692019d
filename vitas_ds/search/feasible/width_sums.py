"""Sums of layer widths: the possible sums, the number of width sequences of each, and sequences drawn at random."""
# K networks, L positions, W widths

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class WidthSums:
    """Possible sums of the widths of k layers. With ``cell``, all k widths are equal."""

    widths: np.ndarray  # [W]
    unit: int  # greatest common divisor of the widths
    counts: np.ndarray  # [L + 1, largest sum / unit + 1] number of width sequences of each length and sum
    cell: bool

    def sums(self, depth: int) -> np.ndarray:
        """Return all possible sums of ``depth`` widths, ascending."""
        return np.flatnonzero(self.counts[depth]) * self.unit

    def num_sequences(self, depth: int) -> np.ndarray:
        """Return the number of width sequences of each of ``sums(depth)``."""
        return self.counts[depth][self.counts[depth] > 0]

    def sample(self, depths: np.ndarray, sums: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw width sequences with given sums, uniformly among all sequences of that sum.

        Args:
            depths: Number of layers of each network [K].
            sums: Required sum of their widths [K].
            rng: Source of the random numbers.

        Returns:
            Indices into ``widths`` [K, L], 0 at the positions after ``depths``.
        """
        positions = len(self.counts) - 1
        if self.cell:
            index = np.searchsorted(self.widths, sums // np.maximum(depths, 1))
            return index[:, None] * (np.arange(positions) < depths[:, None])
        remaining, steps = sums // self.unit, self.widths // self.unit
        genes = np.zeros((len(sums), positions), np.int64)
        for i in range(positions):
            layers_after = np.maximum(depths - i - 1, 0)
            sum_after = remaining[:, None] - steps
            count = np.where(sum_after >= 0, self.counts[layers_after[:, None], np.maximum(sum_after, 0)], 0.0)
            cumulative = count.cumsum(1)
            choice = (rng.random((len(sums), 1)) * cumulative[:, -1:] >= cumulative).sum(1)
            genes[:, i] = np.where(i < depths, choice, 0)
            remaining = remaining - np.where(i < depths, steps[genes[:, i]], 0)
        return genes

    def sequences(self, depth: int, total: int) -> Iterator[tuple[int, ...]]:
        """Yield all sequences of width indices of this length and sum."""
        if self.cell:
            yield (int(np.searchsorted(self.widths, total // depth)),) * depth
        elif depth == 0:
            yield ()
        else:
            for i, width in enumerate(self.widths.tolist()):
                if width <= total and self.counts[depth - 1, (total - width) // self.unit]:
                    for tail in self.sequences(depth - 1, total - width):
                        yield (i, *tail)


def width_sums(widths: tuple[int, ...], positions: int, cell: bool) -> WidthSums:
    """Compute the sums of 0 to ``positions`` widths."""
    unit = math.gcd(*widths)
    counts = np.zeros((positions + 1, positions * widths[-1] // unit + 1))
    counts[0, 0] = 1
    for k in range(1, positions + 1):
        for width in widths:
            if cell:
                counts[k, k * width // unit] = 1
            else:
                counts[k, width // unit :] += counts[k - 1, : counts.shape[1] - width // unit]
    return WidthSums(np.array(widths), unit, counts, cell)
