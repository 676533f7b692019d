"""Racing: candidates are scored on growing shares of the search images, and hopeless ones are dropped on the way.

After each look the final scores of those still running are forecast from the nets that have seen all images
(forecast.py), and who has too small a chance to be among the survivors of the generation (survival.py) is dropped: a
net that would have survived is lost with a probability of at most 1 - ``confidence``, shared evenly among the looks.
"""
# K candidates, P survivors so far, F objectives (lower is better)

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, islice
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.distributed.comm import from_main
from vitas_ds.search.scoring.candidates import Candidate, ScoreFunction, scored
from vitas_ds.search.scoring.ledger import Entry, Ledger, Score, key, score_of
from vitas_ds.search.scoring.surrogate import forecast
from vitas_ds.search.scoring.survival import hopeless

LOOKS = 8  # batches or more that the images are cut into, so that an eighth can be looked at
SHARES = (8, 4, 2, 1)  # parts of the images at the end of each look
PARTNERS = 64  # nets that have seen all images, of which the others are told


@dataclass(frozen=True)
class Race:
    """``parts``: of each look, how many images it adds, and what scores nets on these alone, points included.

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
        self,
        nets: list[Candidate],
        ledger: Ledger,
        past: Sequence[Entry],
        rivals: np.ndarray,
        places: int,
        objectives: Sequence[str],
    ) -> tuple[list[Entry], np.ndarray]:
        """The candidates with their scores, on all images or on those of the look after which they were dropped, and
        [K] the scores that they have or would be expected to have on all.

        Args:
            ledger: where the scores go; of it, only those borrowed from another search spare a net the race, so that
                a search that was killed drops the same nets again.
            past: earlier candidates.
            rivals: [P, F] the survivors so far: minus the score, and the ``objectives``.
            places: how many survive.
        """
        entries = [_borrowed(net, ledger, self.images) for net in nets]
        costs = np.array([[float(price[name]) for name in objectives] for _, price, _ in nets])
        expected = np.array([np.nan if entry is None else entry.score.value for entry in entries])
        sure = np.concatenate([-expected[:, None], costs], 1)[~np.isnan(expected)]
        rivals, known = np.concatenate([rivals.reshape(-1, sure.shape[1]), sure]), self._partners(past)
        running, level = np.flatnonzero(np.isnan(expected)), (1 - self.confidence) / max(len(self.parts) - 1, 1)
        for seen, (_, score) in zip(accumulate(n for n, _ in self.parts), self.parts, strict=True):
            looked = self._look([nets[i] for i in running], [entries[i] for i in running], score, seen)
            for i, entry in zip(running, looked, strict=True):
                entries[i], expected[i] = entry, entry.score.value
            if seen < self.images and len(running):
                rules = costs[running], rivals, places, level
                expected[running], lost = from_main(partial(_judge, [e.score for e in looked], known, *rules))
                running = running[~lost]
        done = [replace(entry, score=replace(entry.score, points=None)) for entry in entries if entry is not None]
        for entry in done:
            ledger.add(entry)
        return done, expected

    def _partners(self, past: Sequence[Entry]) -> np.ndarray:
        """[N, P] what the last nets that have seen all images earned on each; P is 0 as long as there is none."""
        whole = (self.looks.find(e.spec, self.images) for e in reversed(past) if e.score.images == self.images)
        found = list(islice((score for score in whole if score is not None and score.points), PARTNERS))
        return _points(found) if found else np.zeros((self.images, 0))

    def _look(self, nets: list[Candidate], before: list[Entry | None], score: ScoreFunction, seen: int) -> list[Entry]:
        """One look at running nets: their scores on all images seen so far. Their seconds add up."""
        past = {net[0]: entry for net, entry in zip(nets, before, strict=True)}

        def with_past(specs: list[SubnetSpec]) -> Iterator[float | Score]:
            for spec, new in zip(specs, score(specs), strict=True):
                earlier = past[spec]
                yield new if earlier is None else _sum(earlier.score, new)

        entries = scored(nets, with_past, self.looks, seen)
        return [
            replace(entry, seconds=entry.seconds + (earlier.seconds if earlier else 0.0))
            for entry, earlier in zip(entries, before, strict=True)
        ]


def _judge(
    scores: list[Score], known: np.ndarray, costs: np.ndarray, rivals: np.ndarray, places: int, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """[K] the expected final scores, and which nets are hopeless."""
    outlook = forecast(_points(scores), known)
    return outlook.means, hopeless(outlook, costs, rivals, places, level)


def _points(scores: Sequence[Score]) -> np.ndarray:
    """[n, K] the share of its sides that each net had right on each image."""
    digits = [np.frombuffer((score.points or "").encode(), np.uint8) - ord("0") for score in scores]
    sides = [score.counts[3] // score.counts[2] for score in scores if score.counts]
    return np.stack(digits, 1) / np.array(sides)


def _sum(a: Score, b: float | Score) -> Score:
    """The score on the images of both."""
    assert isinstance(b, Score) and a.counts and b.counts and a.points and b.points, "racing needs points"
    return replace(score_of(*(x + y for x, y in zip(a.counts, b.counts, strict=True))), points=a.points + b.points)


def _borrowed(net: Candidate, ledger: Ledger, images: int) -> Entry | None:
    score = ledger.borrowed.get(key(net[0], images))
    return None if score is None else Entry(*net[:2], score, net[2])


def ends(images: int, batch_size: int) -> list[int]:
    """Where the looks end: ``SHARES`` of the images, in whole batches."""
    batches = -(-images // batch_size)
    return sorted({min(-(-batches // share) * batch_size, images) for share in SHARES})


def report(race: Race, entries: list[Entry]) -> dict[str, Any]:
    """What the race spared, and how the scores of its looks rank the nets that were scored on all images.

    ``saved`` is the share of forward passes that were not computed; ``looks`` has, for each look but the last, the
    rank correlation (Spearman) with full scoring over the survivors (null: fewer than three, or all alike).
    """
    whole = [entry for entry in entries if entry.score.images == race.images]
    looks = []
    for seen in list(accumulate(images for images, _ in race.parts))[:-1]:
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
