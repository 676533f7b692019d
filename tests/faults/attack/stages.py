"""Full disks, kills and stop requests at random points of the stages; afterwards, the stage must reach its end."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

from tests.faults.attack.cases import Score, run

PRODUCTS = {"search": ("search",), "export": ("export",), "report": ("report",), "evaluate": ()}  # folders of a stage


class Stages:
    """The attack on stages that resume a copy of a run without one product.

    Args:
        source: A finished run.
        scratch: Folder for copies.
        args: Recipe and overrides of the run, without ``run.dir``.
    """

    def __init__(self, source: Path, scratch: Path, args: list[str]) -> None:
        self.source, self.target = source, scratch / source.name
        self.args = [*args, f"run.dir={scratch}"]
        self.seconds = dict.fromkeys(PRODUCTS, 2.0)

    def attack(self, rng: random.Random, score: Score) -> None:
        """Disturb a random stage, then start it again undisturbed."""
        stage = rng.choice([*PRODUCTS])
        shutil.rmtree(self.target, ignore_errors=True)
        shutil.copytree(self.source, self.target)
        for product in PRODUCTS[stage]:
            shutil.rmtree(self.target / product, ignore_errors=True)
        argv = [stage, *self.args]
        how = rng.choice(("full disk", "SIGKILL", "SIGTERM"))
        before = time.monotonic()
        if how == "full disk":
            size = int(10 ** rng.uniform(0, 6))
            outcome, what = run(argv, file_size=size), f"{stage}, files of {size} bytes"
        else:
            delay = rng.uniform(0, self.seconds[stage])
            outcome = run(argv, during=lambda pid: _signal(pid, delay, getattr(signal, how)))
            what = f"{stage}, {how} after {delay:.2f} s"
            self.seconds[stage] = max(0.2, min(8.0, time.monotonic() - before))
        score.add(how, what, outcome)
        again = run(argv, limit=90)
        lost = [] if again.status == 0 and (self.target / "summary.json").exists() else ["not resumed"]
        score.add("resumed", what, again, lost)


def _signal(pid: int, delay: float, number: int) -> None:
    time.sleep(delay)
    with suppress(ProcessLookupError):
        os.kill(pid, number)
