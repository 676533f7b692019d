"""Two starters of one stage at random times: one of them runs it, the other one leaves it alone; nothing is lost.

Reference: the run that nothing disturbed, bit for bit.
"""

from __future__ import annotations

import random
import signal
import time

from tests.faults.attack.cases import Blow, Outcome, Score, run, start
from tests.faults.attack.finished import Finished, difference, products
from vitas_ds.commands import STAGES

STARTED = [stage for stage in STAGES if stage != "report"]  # report reads a run while another job writes
LATEST = 1.5  # durations of a stage within which the second one starts


class Starters:
    """The attack with two jobs on one run."""

    def __init__(self, finished: Finished, rng: random.Random) -> None:
        self.finished, self.rng = finished, rng
        self.expected = {}
        for number, stage in enumerate(STARTED, 1):
            finished.put(number)
            self.expected[stage] = products(finished.run)

    def attack(self, score: Score) -> None:
        """Start a stage twice; kill the first one, sometimes; compare all products."""
        stage = self.rng.choice(STARTED)
        argv, delay = self.finished.argv(stage), self.rng.uniform(0, LATEST * self.finished.seconds[stage])
        self.finished.put(STARTED.index(stage))
        killed = self.rng.random() < 0.3
        blow = Blow(signal.SIGKILL, delay=self.rng.uniform(0, self.finished.seconds[stage])) if killed else Blow()
        first = start(argv, blow)
        time.sleep(delay)
        second = start(argv)
        outcomes = [first.finish(120), second.finish(120)]
        what = f"{stage}, second after {delay:.2f} s{', first killed' if killed else ''}"
        score.add("two starters", what, outcomes[0], allowed={0, 2, -9} if killed else {0, 2})
        score.add("two starters", what, outcomes[1], _wrong(outcomes, killed), allowed={0, 2})
        if all(outcome.status for outcome in outcomes):  # the first one was killed while the second one was refused
            score.add("two starters", f"{what}, again", run(argv), allowed={0})
        if lost := difference(self.finished.run, self.expected[stage]):
            score.add("two starters", what, outcomes[1], [f"other products: {', '.join(lost)}"])


def _wrong(outcomes: list[Outcome], killed: bool) -> list[str]:
    """Check that one of them has won, and that the other one was told by whom."""
    if not killed and all(outcome.status for outcome in outcomes):
        return ["no winner"]
    refused = [outcome for outcome in outcomes if outcome.status == 2]
    return ["unnamed owner"] if any("in use by process" not in outcome.err for outcome in refused) else []
