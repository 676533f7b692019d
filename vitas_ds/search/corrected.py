"""Score candidates and correct the scores, see ``trials/correction.py``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from typing_extensions import override  # a dependency of pydantic

from vitas_ds.distributed.comm import from_main
from vitas_ds.search.scoring.candidate import Candidate
from vitas_ds.search.scoring.evaluation import Evaluator
from vitas_ds.search.trials.correction import Correction


@dataclass(frozen=True)
class CorrectedEvaluator(Evaluator):
    """Scores candidates, records the scores, and corrects them. All ranks call it with the same candidates.

    Attributes:
        correction: The correction; only that of rank 0 counts.
    """

    correction: Correction | None = None

    @override
    def __call__(self, candidates: list[Candidate]) -> Iterator[Candidate]:
        """Yield the candidates with corrected scores, in order."""
        scored, correction = list(super().__call__(candidates)), self.correction
        if correction is not None:
            # Rank 0 corrects: rounding may differ between nodes, but all ranks must propose the same candidates.
            values = from_main(lambda: [(c.score, c.supernet_score) for c in correction.apply(scored)])
            scored = [
                replace(c, score=score, supernet_score=first)
                for c, (score, first) in zip(scored, values, strict=True)
            ]  # fmt: skip
        yield from scored
