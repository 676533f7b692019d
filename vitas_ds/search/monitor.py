"""What a search shows while it runs: a progress record, pictures and a table."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vitas_ds import config
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.run.metrics import clock
from vitas_ds.run.tracker import Tracker
from vitas_ds.search.loop import Progress, hypervolume, result_of
from vitas_ds.search.plots import COLUMNS, draw, rows
from vitas_ds.search.scoring.candidates import ScoreFunction
from vitas_ds.search.scoring.ledger import Score


def counted(score: ScoreFunction, tracker: Tracker, name: str, total: int, every: float = 10.0) -> ScoreFunction:
    """The same scores, with a line every so many seconds: how many nets of the most there may be, and the time left."""
    done, begun, said = 0, time.perf_counter(), time.perf_counter()

    def telling(specs: list[SubnetSpec]) -> Iterator[float | Score]:
        nonlocal done, said
        for value in score(specs):
            yield value  # on disk once we are back here
            done, now = done + 1, time.perf_counter()
            if now - said >= every:
                tracker.say(f"search: {name}, {done}/{total} nets  ETA {clock((now - begun) / done * (total - done))}")
                said = now

    return telling


class Watch:
    """Tells a tracker of each generation; ``figures`` is where pictures go (None: nowhere, on ranks but the first)."""

    def __init__(
        self, tracker: Tracker, space: SearchSpace, cfg: config.Search, images: int, figures: Path | None
    ) -> None:
        """``images``: how many a candidate is scored on."""
        self.tracker, self.space, self.cfg, self.images, self.figures = tracker, space, cfg, images, figures
        self.last: Progress | None = None
        self.told: dict[str, Any] = {}  # of the last generation
        self.drawn, self.draw_at = 0, 0.0  # the generation drawn last; when the next may be
        self.passes, self.seconds = 0, 0.0  # images computed by this start, and how long that took
        self.share = 1.0  # of a generation's images that are computed, as the last one had it
        self.part = 0.0  # nets' worth of images that this generation has computed

    def timed(self, score: ScoreFunction, images: int) -> ScoreFunction:
        """The same scores on so many images, counted and timed: what is known already takes no time of an estimate."""

        def counted(specs: list[SubnetSpec]) -> Iterator[float | Score]:
            values, begun = iter(score(specs)), time.perf_counter()
            for value in values:
                self.seconds += time.perf_counter() - begun
                self.passes += images
                self.part += images / self.images
                yield value
                self.tracker.tell(int(self._done + self.part), self._now, self.left())  # now that it is on disk
                begun = time.perf_counter()

        return counted

    @property
    def _now(self) -> dict[str, Any]:
        """What is known within a generation."""
        best = {"best": self.told["best"]} if self.told else {}
        return {"generation": self.last.generation + 1 if self.last else 1} | best

    @property
    def _done(self) -> int:
        return len(self.last.entries) if self.last else 0

    def left(self) -> float:
        """Seconds that the rest is going to take at the rate of what was computed; nan as long as nothing was."""
        if not self.passes:
            return math.nan
        nets = self.cfg.population * self.cfg.generations - self._done - self.part
        return max(nets, 0.0) * self.images * self.share * self.seconds / self.passes

    def tell(self, progress: Progress) -> None:
        """A record of a generation; its step is the number of candidates so far."""
        self.last, self.part, self.share = progress, 0.0, 1 - progress.saved
        scores = np.array([entry.score.value for entry in progress.entries])
        newest = scores[-(progress.scored + progress.reused) :]
        best = result_of(progress.entries).best.score.value
        values: dict[str, Any] = {
            "generation": progress.generation, "best": best, "mean": newest.mean(),
            "hypervolume": hypervolume(progress.entries, progress.most), "feasible": progress.feasible,
            "cached": progress.reused / len(newest),
        }  # fmt: skip
        if self.cfg.racing:
            values["saved"] = progress.saved
        if progress.correlation is not None:
            values["surrogate"] = progress.correlation
        self.told = values
        self.tracker.log(len(scores), values | {"seconds": progress.seconds}, left=self.left())
        self.tracker.histogram("scores", newest)
        if time.monotonic() > self.draw_at or progress.generation == self.cfg.generations:
            self._draw(progress)

    def _draw(self, progress: Progress) -> None:
        """Pictures and table of all candidates; the next are due when these have taken a tenth of the time."""
        if self.figures is None:
            return
        begun = time.monotonic()
        for name, path in draw(progress, self.space, self.cfg.population, self.figures).items():
            self.tracker.image(f"search/{name}", path)
        self.tracker.table("search/candidates", COLUMNS, rows(progress.entries))
        self.drawn, self.draw_at = progress.generation, time.monotonic() + 9 * (time.monotonic() - begun)

    def finish(self) -> None:
        """Draw the last generation if it was not, as where there are fewer nets than asked for."""
        if self.last is not None and self.drawn < self.last.generation:
            self._draw(self.last)

    def numbers(self) -> dict[str, Any]:
        """Headline numbers of the last generation told of."""
        if self.last is None:
            return {}
        told: dict[str, Any] = {"hypervolume": hypervolume(self.last.entries, self.last.most)}
        if self.cfg.surrogate and self.cfg.algorithm != "random":
            told["surrogate"] = {"threshold": self.cfg.surrogate, "correlation": self.last.correlation}
        return told
