"""The result of separation.py, and its description. Importing this module does not import torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

LIKELY = 0.5
MOST_FINALISTS = 0.25  # share of the candidates; training more is not a search


@dataclass(frozen=True)
class Separation:
    """Noise and spread of the scores.

    Attributes:
        candidates: Number of candidates K.
        images: Search images of a score.
        stderr: Standard error of a score, as if alone (binomial).
        noise: Standard error of a score relative to other candidates, which see the same images.
        spread: Standard deviation of the scores, from the better half.
        top: Number of top candidates k.
        probability: Probability that the best candidate is among the top k.
        needed: Smallest k for which this probability is at least ``LIKELY``.
        needed_images: Search images for which it would be at least ``LIKELY`` with the same k; None if even 32 times as
            many are too few.
    """

    candidates: int
    images: int
    stderr: float
    noise: float
    spread: float
    top: int
    probability: float
    needed: int
    needed_images: int | None

    @property
    def enough(self) -> bool:
        """Whether the scores separate the candidates. They do not if they spread less than their noise."""
        return self.probability >= LIKELY and self.spread >= self.noise

    def describe(self) -> str:
        """Return noise, spread and probability as one clause."""
        return (
            f"a score has a standard error of {self.stderr:.2%} ({self.noise:.2%} relative to other candidates on the "
            f"same {self.images:,} images), the last {self.candidates:,} candidates spread by {self.spread:.2%}; the "
            f"best of them is among the top {self.top} with a probability of {self.probability:.0%}"
        )

    def brief(self) -> str:
        """Return the same in fewer words, for a warning of one line."""
        return (
            f"the best of {self.candidates:,} is in the top {self.top} with probability {self.probability:.0%} (error "
            f"{self.noise:.2%}, spread {self.spread:.2%})"
        )

    def remedies(self, finalists: bool) -> list[str]:
        """Return what would help, apart from a longer training of the supernet."""
        found = []
        if self.needed <= MOST_FINALISTS * self.candidates:
            found.append(f"train {self.needed} " + ("finalists" if finalists else "candidates (search.finalists)"))
        if self.needed_images:
            found.append(f"use {self.needed_images:,} images (data.search_per_class)")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the values for ``summary.json``."""
        return asdict(self)
