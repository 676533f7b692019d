"""What a search shows while it runs: a progress record, pictures and a table."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from vitas_ds import config
from vitas_ds.search.evolution import Progress, hypervolume
from vitas_ds.search.figures import COLUMNS, draw, rows
from vitas_ds.search.ledger import Entry
from vitas_ds.space import SearchSpace
from vitas_ds.tracking import Tracker


class Watch:
    """Tells a tracker of each generation; ``figures`` is where pictures go (None: nowhere, on ranks but the first)."""

    def __init__(self, tracker: Tracker, space: SearchSpace, cfg: config.Search, figures: Path | None) -> None:
        self.tracker, self.space, self.cfg, self.figures = tracker, space, cfg, figures
        self.last: Progress | None = None
        self.draw_at = 0.0

    def tell(self, progress: Progress) -> None:
        """A record of a generation; its step is the number of candidates so far."""
        self.last = progress
        scores = np.array([entry.score.value for entry in progress.entries])
        newest = scores[-(progress.scored + progress.reused) :]
        values: dict[str, Any] = {
            "generation": progress.generation, "best": scores.max(), "mean": newest.mean(),
            "hypervolume": hypervolume(progress.entries, progress.most), "cached": progress.reused / len(newest),
        }  # fmt: skip
        if self.cfg.racing:
            values["saved"] = progress.saved
        if progress.correlation is not None:
            values["predictor"] = progress.correlation
        self.tracker.log(len(scores), values | {"seconds": progress.seconds})
        self.tracker.histogram("scores", newest)
        if self.figures is not None and (
            time.monotonic() > self.draw_at or progress.generation == self.cfg.generations
        ):
            self._draw(progress, self.figures)

    def _draw(self, progress: Progress, folder: Path) -> None:
        """The pictures; the next ones are due when these have taken a tenth of the time."""
        begun = time.monotonic()
        for name, path in draw(progress, self.space, self.cfg.population, folder).items():
            self.tracker.image(f"search/{name}", path)
        self.draw_at = time.monotonic() + 9 * (time.monotonic() - begun)

    def table(self, entries: list[Entry]) -> None:
        """All candidates."""
        self.tracker.table("search/candidates", COLUMNS, rows(entries))

    def numbers(self) -> dict[str, Any]:
        """Headline numbers of the last generation told of."""
        if self.last is None:
            return {}
        told: dict[str, Any] = {"hypervolume": hypervolume(self.last.entries, self.last.most)}
        if self.cfg.predictor and self.cfg.algorithm != "random":
            told["predictor"] = {"threshold": self.cfg.predictor, "correlation": self.last.correlation}
        return told
