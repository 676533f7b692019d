"""Racing: candidates are scored on growing shares of the search images, and hopeless ones are dropped on the way.

A candidate is dropped once as many others as survive a generation dominate it even if its final score is as high, and
theirs as low, as can be believed: a net that would have survived is dropped with a probability of at most
1 - ``confidence``, over all looks together (one-sided bounds in the normal approximation, Bonferroni over the looks;
with the finite-population correction, for the final score is that on all images).
"""
# K candidates, P survivors so far, F objectives (lower is better)

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from vitas_ds.search.candidates import Candidate, ScoreFunction, scored
from vitas_ds.search.ledger import Entry, Ledger, Score, key, score_of
from vitas_ds.spec import SubnetSpec


@dataclass(frozen=True)
class Race:
    """``parts``: of each look, how many images it adds, and what scores nets on these alone, counts included.

    ``looks`` is a ledger of its own for the sums over the first looks; a search that was killed repeats none.
    """

    parts: list[tuple[int, ScoreFunction]]
    confidence: float
    looks: Ledger

    @property
    def images(self) -> int:
        """Images of all looks together."""
        return sum(images for images, _ in self.parts)

    def run(
        self, nets: list[Candidate], ledger: Ledger, rivals: np.ndarray, places: int, objectives: Sequence[str]
    ) -> list[Entry]:
        """The candidates with their scores: on all images, or on those of the look after which they were dropped.

        Args:
            ledger: where the scores go; of it, only those borrowed from another search spare a net the race, so that
                a search that was killed drops the same nets again.
            rivals: [P, F] the survivors so far: minus the score, and the ``objectives``.
            places: how many survive.
        """
        entries = [_borrowed(net, ledger, self.images) for net in nets]
        running, seen = [i for i, entry in enumerate(entries) if entry is None], 0
        for images, score in self.parts:
            seen += images
            sums = _look([nets[i] for i in running], [entries[i] for i in running], score, self.looks, seen)
            for i, entry in zip(running, sums, strict=True):
                entries[i] = entry
            known = [entry for entry in entries if entry is not None]
            hopeless = _dominators(known, self, rivals, objectives) >= places
            running = [i for i in running if not hopeless[i]]
        for entry in known:
            ledger.add(entry)
        return known


def report(race: Race, entries: list[Entry]) -> dict[str, Any]:
    """What the race spared, and how the scores of its looks rank the nets that were scored on all images.

    ``saved`` is the share of forward passes that were not computed; ``looks`` has, for each look but the last, the
    rank correlation (Spearman) with full scoring over the survivors (null: fewer than three, or all alike).
    """
    whole = [entry for entry in entries if entry.score.images == race.images]
    looks = []
    for seen in np.cumsum([images for images, _ in race.parts])[:-1].tolist():
        pairs = [(s.value, e.score.value) for e in whole if (s := race.looks.find(e.spec, seen)) is not None]
        early, full = np.array(pairs).reshape(-1, 2).T
        sure = len(pairs) > 2 and np.ptp(early) > 0 and np.ptp(full) > 0
        correlation = float(spearmanr(early, full).statistic) if sure else None
        looks.append({"images": seen, "nets": len(pairs), "correlation": correlation})
    saved = 1 - sum(entry.score.images for entry in entries) / (race.images * len(entries))
    return {"confidence": race.confidence, "saved": saved, "survivors": len(whole), "looks": looks}


def line(told: dict[str, Any]) -> str:
    """A ``report`` in words."""
    known = [look for look in told["looks"] if look["correlation"] is not None]
    looks = [f"{look['images']} images: {look['correlation']:.3f}" for look in known]
    agreement = f"; rank correlation with full scores, {told['survivors']} survivors: " + ", ".join(looks)
    return f"racing: {told['saved']:.1%} of forward passes spared" + (agreement if looks else "")


def ends(images: int, batch_size: int) -> list[int]:
    """Where the looks end: an eighth, a quarter, a half and all of the images, in whole batches."""
    batches = -(-images // batch_size)
    return sorted({min(-(-batches // share) * batch_size, images) for share in (8, 4, 2, 1)})


def _borrowed(net: Candidate, ledger: Ledger, images: int) -> Entry | None:
    score = ledger.borrowed.get(key(net[0], images))
    return None if score is None else Entry(*net[:2], score, net[2])


def _look(
    nets: list[Candidate], before: list[Entry | None], score: ScoreFunction, looks: Ledger, seen: int
) -> list[Entry]:
    """One look at the running nets: the scores on all images seen so far. Their seconds add up."""
    past = {net[0]: entry for net, entry in zip(nets, before, strict=True)}

    def with_past(specs: list[SubnetSpec]) -> Iterator[float | Score]:
        for spec, new in zip(specs, score(specs), strict=True):
            earlier = past[spec]
            yield new if earlier is None else _sum(earlier.score, new)

    entries = scored(nets, with_past, looks, seen)
    return [
        replace(entry, seconds=entry.seconds + (earlier.seconds if earlier else 0.0))
        for entry, earlier in zip(entries, before, strict=True)
    ]


def _sum(a: Score, b: float | Score) -> Score:
    """The score on the images of both."""
    assert isinstance(b, Score) and a.counts and b.counts, "racing needs scores with counts"
    return score_of(*(x + y for x, y in zip(a.counts, b.counts, strict=True)))


def _dominators(entries: list[Entry], rules: Race, rivals: np.ndarray, objectives: Sequence[str]) -> np.ndarray:
    """[K] how many rivals and other candidates dominate each one, as sure as the rules want it."""
    z = quantile(rules.confidence, max(len(rules.parts) - 1, 1))
    bounds = np.array([interval(entry.score, rules.images, z) for entry in entries])
    costs = np.array([[float(entry.costs[name]) for name in objectives] for entry in entries])
    best, worst = (np.concatenate([-bounds[:, [side]], costs], 1) for side in (1, 0))
    others = np.concatenate([rivals, worst])  # a net never dominates itself: its worst is no better than its best
    return ((others[None] <= best[:, None]).all(2) & (others[None] < best[:, None]).any(2)).sum(1)


def quantile(confidence: float, statements: int) -> float:
    """The z at which so many one-sided bounds hold together with this confidence."""
    return NormalDist().inv_cdf(1 - (1 - confidence) / statements)


def interval(score: Score, images: int, z: float) -> tuple[float, float]:
    """Lower and upper bound of the final score on ``images`` images; one point once all are counted.

    The variance is that of the counted images, smoothed by two right and two wrong answers, so that a few lucky
    images prove nothing.
    """
    n, rest = score.images, images - score.images
    if not rest:
        return score.value, score.value
    assert score.stderr is not None, "racing needs standard errors"
    mean, square = score.value, score.value**2 + score.stderr**2 * max(n - 1, 1)
    mean, square = (mean * n + 2) / (n + 4), (square * n + 2) / (n + 4)
    half = z * math.sqrt((square - mean**2) / n * rest / max(images - 1, 1))
    surely = score.value * n / images, (score.value * n + rest) / images  # the rest all wrong, all right
    return max(score.value - half, surely[0]), min(score.value + half, surely[1])
