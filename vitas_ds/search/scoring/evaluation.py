"""Score candidates and record the scores in a ledger."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.errors import UserError
from vitas_ds.search.scoring.candidate import Candidate, Score
from vitas_ds.search.scoring.ledger import Ledger

ScoreFunction = Callable[[list[SubnetSpec]], Iterable[float | Score]]
"""Returns the scores of subnets in their order, higher is better. A generator's scores are written one by one."""


@dataclass(frozen=True)
class Evaluator:
    """Scores candidates and records the scores in a ledger.

    Each score is in the ledger before the next one is computed. A candidate whose score is in the ledger is not scored.

    Attributes:
        score: Computes the scores.
        ledger: Stores the scores.
        images: Number of search images that ``score`` uses; part of the ledger's key.
    """

    score: ScoreFunction
    ledger: Ledger
    images: int = 0

    def __call__(self, candidates: list[Candidate]) -> Iterator[Candidate]:
        """Yield the candidates with their scores, in order."""
        known = [self.ledger.find(candidate.spec, self.images) for candidate in candidates]
        unknown = [candidate.spec for candidate, score in zip(candidates, known, strict=True) if score is None]
        new_scores = iter(self.score(unknown) if unknown else ())
        for candidate, score in zip(candidates, known, strict=True):
            seconds = 0.0
            if score is None:
                start = time.perf_counter()
                score = self._checked(next(new_scores), candidate.spec)
                seconds = time.perf_counter() - start
            scored = replace(candidate, score=score, seconds=seconds, predicted=None, supernet_score=None)
            self.ledger.add(scored)
            yield scored
        assert next(new_scores, None) is None, "more scores than candidates"

    def _checked(self, value: float | Score, spec: SubnetSpec) -> Score:
        score = value if isinstance(value, Score) else Score(float(value), None, self.images)
        if not math.isfinite(score.value):
            raise UserError(f"the score of a candidate is {score.value}; scores must be finite ({spec.describe()})")
        assert score.images == self.images, f"scored on {score.images} images, expected {self.images}"
        return score
