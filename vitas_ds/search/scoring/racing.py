"""Racing: score candidates on growing shares of the search images and drop hopeless ones on the way.

After each round, the final scores of the candidates still in the race are predicted from fully scored candidates
(surrogate.py). Candidates with too small a probability of surviving the generation are dropped (survival.py). The
probability of dropping a candidate that would have survived is at most 1 - ``confidence``, divided evenly among the
rounds.
"""
# N images, K candidates, P fully scored candidates, F objectives (lower is better)

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, islice
from typing import Any

import numpy as np

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.distributed.comm import from_main
from vitas_ds.search.scoring.candidate import Candidate, Score, objective_values, score_from_counts
from vitas_ds.search.scoring.evaluation import Evaluator, ScoreFunction
from vitas_ds.search.scoring.ledger import Ledger
from vitas_ds.search.scoring.surrogate import predict_final_scores
from vitas_ds.search.scoring.survival import Selection, hopeless

MIN_BATCHES = 8  # the images are split into at least this many batches, to allow a first round of an eighth of them
DIVISORS = (8, 4, 2, 1)  # the rounds end after 1/8, 1/4, 1/2 and all of the images
MAX_REFERENCES = 64  # fully scored candidates that predictions are based on


@dataclass(frozen=True)
class Round:
    """One round of a race.

    Attributes:
        images: Number of images in the round.
        score: Scores subnets on these images only, with ``Score.points``.
    """

    images: int
    score: ScoreFunction


@dataclass(frozen=True)
class Race:
    """Scores candidates in rounds.

    Attributes:
        rounds: The rounds, in order.
        confidence: Probability of keeping a candidate that would have survived.
        ledger: Scores after each round, separate from the search's ledger. A resumed search repeats no round.
    """

    rounds: list[Round]
    confidence: float
    ledger: Ledger

    @property
    def images(self) -> int:
        """Number of images of all rounds."""
        return sum(r.images for r in self.rounds)

    @property
    def _level(self) -> float:
        """Probability, per round, of dropping a candidate that would have survived."""
        return (1 - self.confidence) / max(len(self.rounds) - 1, 1)

    def run(
        self, candidates: list[Candidate], ledger: Ledger, previous: Sequence[Candidate], selection: Selection
    ) -> list[Candidate]:
        """Score candidates on all images or until they are dropped.

        Args:
            candidates: Candidates without scores.
            ledger: The search's ledger, for the results. Candidates with a score reused from another search skip the
                race. Those with a score of this search do not: a resumed search must drop the same ones again.
            previous: Candidates of earlier generations.
            selection: Survivors so far, with the objectives as columns.

        Returns:
            The candidates with the score of their last round, and with ``predicted`` if they were dropped.
        """
        candidates = [replace(c, score=ledger.find_reused(c.spec, self.images)) for c in candidates]
        reused = objective_values([c for c in candidates if c.score is not None], selection.objectives)
        rivals = np.concatenate([selection.rivals.reshape(-1, reused.shape[1]), reused])
        selection, reference = replace(selection, rivals=rivals), self._reference_points(previous)
        running = [i for i, c in enumerate(candidates) if c.score is None]
        for images, round_ in zip(accumulate(r.images for r in self.rounds), self.rounds, strict=True):
            scored = self._score_round([candidates[i] for i in running], round_.score, images)
            if images < self.images and scored:
                scored = _drop_hopeless(scored, reference, selection, self._level)
            for i, candidate in zip(running, scored, strict=True):
                candidates[i] = candidate
            running = [i for i in running if candidates[i].predicted is None]
        candidates = [_without_points(c) for c in candidates]
        for candidate in candidates:
            ledger.add(candidate)
        return candidates

    def _reference_points(self, previous: Sequence[Candidate]) -> np.ndarray:
        """Return the points of the latest fully scored candidates on each image, [N, P]."""
        full = (self.ledger.find(c.spec, self.images) for c in reversed(previous) if c.images == self.images)
        scores = list(islice((score for score in full if score is not None and score.points), MAX_REFERENCES))
        return _points(scores) if scores else np.zeros((self.images, 0))

    def _score_round(self, candidates: list[Candidate], score: ScoreFunction, images: int) -> list[Candidate]:
        """Score candidates on the images of one round; return their scores on all ``images`` seen so far."""
        earlier = {c.spec: c.score for c in candidates}

        def cumulative(specs: list[SubnetSpec]) -> Iterator[float | Score]:
            for spec, new in zip(specs, score(specs), strict=True):
                before = earlier[spec]
                yield new if before is None else _add(before, new)

        scored = Evaluator(cumulative, self.ledger, images)(candidates)
        return [replace(new, seconds=new.seconds + old.seconds) for new, old in zip(scored, candidates, strict=True)]


def _drop_hopeless(
    candidates: list[Candidate], reference: np.ndarray, selection: Selection, level: float
) -> list[Candidate]:
    """Set ``predicted`` for the candidates to drop. Rank 0 decides."""
    means, dropped = from_main(partial(_judge, candidates, reference, selection, level))
    return [
        replace(candidate, predicted=mean) if drop else candidate
        for candidate, mean, drop in zip(candidates, means.tolist(), dropped, strict=True)
    ]


def _judge(
    candidates: list[Candidate], reference: np.ndarray, selection: Selection, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the predicted final scores [K] and which candidates are hopeless [K]."""
    scores = predict_final_scores(_points([c.score for c in candidates if c.score is not None]), reference)
    costs = objective_values(candidates, selection.objectives)[:, 1:]
    return scores.means, hopeless(scores, costs, selection, level)


def _points(scores: Sequence[Score]) -> np.ndarray:
    """Return the share of correct sides for each image and candidate, [n, K]."""
    digits = [np.frombuffer((score.points or "").encode(), np.uint8) - ord("0") for score in scores]
    sides = [score.counts[3] // score.counts[2] for score in scores if score.counts]
    return np.stack(digits, 1) / np.array(sides)


def _add(a: Score, b: float | Score) -> Score:
    """Return the score on the images of both scores."""
    assert isinstance(b, Score) and a.counts and b.counts and a.points and b.points, "racing needs points"
    counts = (x + y for x, y in zip(a.counts, b.counts, strict=True))
    return replace(score_from_counts(*counts), points=a.points + b.points)


def _without_points(candidate: Candidate) -> Candidate:
    assert candidate.score is not None
    return replace(candidate, score=replace(candidate.score, points=None))


def round_ends(images: int, batch_size: int) -> list[int]:
    """Return the number of images seen at the end of each round, in whole batches."""
    batches = -(-images // batch_size)
    return sorted({min(-(-batches // divisor) * batch_size, images) for divisor in DIVISORS})


def report(race: Race, candidates: list[Candidate]) -> dict[str, Any]:
    """Return the savings of a race and how well partial scores rank the candidates.

    Returns:
        ``saved`` is the share of forward passes avoided. ``looks`` contains, for each round but the
        last, the rank correlation (Spearman) between the scores after this round and the full scores, over the
        survivors; it is None for fewer than three survivors or if all scores are equal.
    """
    from scipy.stats import spearmanr  # slow to import, and seldom needed

    full = [c for c in candidates if c.images == race.images]
    looks = []
    for images in list(accumulate(r.images for r in race.rounds))[:-1]:
        pairs = [(s.value, c.value) for c in full if (s := race.ledger.find(c.spec, images)) is not None]
        early, final = np.array(pairs).reshape(-1, 2).T
        defined = len(pairs) > 2 and np.ptp(early) > 0 and np.ptp(final) > 0
        correlation = float(spearmanr(early, final).statistic) if defined else None
        looks.append({"images": images, "nets": len(pairs), "correlation": correlation})
    saved = 1 - sum(c.images for c in candidates) / (race.images * len(candidates))
    return {"confidence": race.confidence, "saved": saved, "survivors": len(full), "looks": looks}


def format_report(report: dict[str, Any]) -> str:
    """Return the report as one line for the console."""
    text = f"racing: {report['saved']:.1%} of forward passes saved"
    known = [look for look in report["looks"] if look["correlation"] is not None]
    if not known:
        return text
    correlations = ", ".join(f"{look['images']} images: {look['correlation']:.3f}" for look in known)
    return f"{text}; rank correlation with full scores over {report['survivors']} survivors: {correlations}"
