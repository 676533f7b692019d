"""Disturb every stage with signals and full disks at all points; afterwards, it must end as if nothing had happened.

Reference: the run that nothing disturbed, bit for bit.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

from tests.faults.attack.cases import Blow, Outcome, Score, run
from tests.faults.attack.finished import Finished, difference, fill, products, set_read_only
from vitas_ds.commands import STAGES

SIZES = (0, *(4096 * round(1.19**i) for i in range(39)))  # free bytes of a full disk: 40 sizes up to 3 MB
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
MORE = 2  # random blows after the first one, at most


@dataclass(frozen=True)
class Disturbance:
    """A blow, or a full or read-only disk: ``free`` bytes of it, -1 if it is read-only."""

    name: str
    blow: Blow
    free: int | None = None

    @property
    def allowed(self) -> set[int]:
        """Exit statuses that it may cause."""
        if self.free is not None or self.blow.file_size is not None:
            return {0, 74}
        return {0, -9} if self.blow.number == signal.SIGKILL else {0, 75}


class Stages:
    """The attack on the stages of one run.

    Args:
        finished: The run.
        has_disk: Whether its disk can be filled; otherwise a limit on the size of files replaces that.
        rng: Chooses the order and the random points.
    """

    def __init__(self, finished: Finished, has_disk: bool, rng: random.Random) -> None:
        self.finished, self.has_disk, self.rng = finished, has_disk, rng
        self.expected = []
        for number in range(len(STAGES) + 1):
            finished.put(number)
            self.expected.append(products(finished.run))
        planned = [(stage, blow) for stage in STAGES for blow in self._planned(stage)]
        rng.shuffle(planned)
        self.plan = cycle(planned)

    def _planned(self, stage: str) -> Iterator[Disturbance]:
        for number in SIGNALS:
            for point in range(1, self.finished.points[stage] + 1):
                yield self._signal(number, point=point)
        yield from map(self._disk, SIZES)
        if self.has_disk:
            yield Disturbance("read-only disk", Blow(), -1)

    def _signal(self, number: signal.Signals, point: int | None = None, delay: float | None = None) -> Disturbance:
        return Disturbance(number.name, Blow(number, point, delay, watched=str(self.finished.run)))

    def _disk(self, free: int) -> Disturbance:
        if self.has_disk:
            return Disturbance("full disk", Blow(), free)
        return Disturbance("full disk", Blow(file_size=free))

    def _random(self, stage: str) -> Disturbance:
        choice = self.rng.random()
        if choice < 0.2:
            return self._disk(self.rng.choice(SIZES))
        number = self.rng.choice(SIGNALS)
        if choice < 0.6:
            return self._signal(number, point=self.rng.randint(1, self.finished.points[stage]))
        return self._signal(number, delay=self.rng.uniform(0.05, self.finished.seconds[stage]))

    def attack(self, score: Score) -> None:
        """Disturb a stage a few times, let it end, and compare all products."""
        stage, first = next(self.plan)
        before = [*STAGES].index(stage)
        self.finished.put(before)
        told = []
        for disturbance in (first, *(self._random(stage) for _ in range(self.rng.randint(0, MORE)))):
            told.append(self._describe(disturbance))
            outcome = self._disturb(stage, disturbance)
            started = bool(outcome.out or outcome.err) or outcome.points > 0
            allowed = disturbance.allowed | (set() if started else {-disturbance.blow.number})
            score.add(disturbance.name, f"{stage}: {', '.join(told)}", outcome, allowed=allowed)
        again = run(self.finished.argv(stage), limit=90)
        lost = [] if again.status else difference(self.finished.run, self.expected[before + 1])
        problems = [f"other products: {', '.join(lost)}"] if lost else []
        score.add("resumed stages", f"{stage}: {', '.join(told)}", again, problems, allowed={0})

    def _disturb(self, stage: str, disturbance: Disturbance) -> Outcome:
        disk, free = self.finished.disk, disturbance.free
        if free == -1:
            set_read_only(disk, True)
        elif free is not None:
            fill(disk, free)
        try:
            return run(self.finished.argv(stage), blow=disturbance.blow)
        finally:
            if free == -1:
                set_read_only(disk, False)
            elif free is not None:
                (disk / "ballast").unlink()

    @staticmethod
    def _describe(disturbance: Disturbance) -> str:
        blow = disturbance.blow
        if disturbance.free is not None:
            return "read-only" if disturbance.free < 0 else f"{disturbance.free} bytes free"
        if blow.file_size is not None:
            return f"files of {blow.file_size} bytes"
        where = f"before change {blow.point}" if blow.point else f"after {blow.delay:.2f} s"
        return f"{disturbance.name} {where}"
