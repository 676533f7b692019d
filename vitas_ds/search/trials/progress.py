"""Report the progress of the finalists: metrics, console lines and the remaining time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vitas_ds.config import Search
from vitas_ds.distributed.groups import Group, largest_divisor
from vitas_ds.run.tracker import Tracker
from vitas_ds.search.trials import plan
from vitas_ds.search.trials.plan import Rung


class ProgressReport:
    """Reports the trainings of the finalists on rank 0.

    A finished rung of a candidate counts as one step of the stage, after those of the candidates scored. The remaining
    time follows from the work of this rank since the start: MACs times steps, divided by the number of ranks in its
    group.

    Args:
        cfg: The section ``search``.
        tracker: Gets metrics and lines.
        rungs: The rungs.
        macs: MACs of each finalist.
        world_size: Number of ranks.
        first: Number of finalists of the budgets before this one.
        finished: Number of trainings of these.
        after: Number of budgets after this one, with as much work.
    """

    def __init__(
        self, cfg: Search, tracker: Tracker, rungs: Sequence[Rung], macs: Mapping[int, int], world_size: int,
        first: int = 0, finished: int = 0, after: int = 0,
    ) -> None:  # fmt: skip
        self.tracker, self.rungs, self.macs, self.world_size = tracker, rungs, macs, world_size
        self.first, self.after = first, after
        self.finished = cfg.candidates * max(len(cfg.budgets), 1) + finished
        self._start, self._done = 0.0, 0.0  # since this start
        self._left, self._later = 0.0, 0.0  # work in this rung and in later ones

    def start_rung(self, number: int, remaining: Mapping[int, int], group: Group) -> None:
        """Start a rung in which each of ``remaining`` trains for that many steps, on groups like ``group``."""
        macs = [self.macs[i] for i in remaining]
        self._left = plan.work(macs, list(remaining.values()), group.count) / group.size
        self._later = sum(self._work(later) for later in range(number + 1, len(self.rungs)))
        self._later += self.after * sum(map(self._work, range(len(self.rungs))))
        self._size = group.size
        self._start = self._start or time.monotonic()

    def _work(self, number: int) -> float:
        """Estimate the work of a later rung, whose candidates are unknown."""
        nets, steps = self.rungs[number].nets, plan.added_steps(self.rungs)[number]
        groups = largest_divisor(self.world_size, nets)
        mean = round(sum(self.macs.values()) / len(self.macs))
        return plan.work([mean] * nets, [steps] * nets, groups) * groups / self.world_size

    def of(self, i: int, step: int) -> Callable[[int, float], None]:
        """Return the ``finalists_training.Report`` of finalist ``i``, which trains from ``step`` on."""

        def report(now: int, loss: float) -> None:
            nonlocal step
            work = self.macs[i] * (now - step) / self._size
            step, self._done, self._left = now, self._done + work, self._left - work
            values = {"loss": loss, "finalist": self.first + i + 1, "finalist_step": now}
            self.tracker.progress(self.finished, values, self.seconds_left())

        return report

    def seconds_left(self) -> float:
        """Estimate the remaining seconds; nan before the first steps."""
        if not self._done:
            return math.nan
        return (max(self._left, 0.0) + self._later) * (time.monotonic() - self._start) / self._done

    def finish_rung(self, number: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Record the results of a rung, best first."""
        self._left = 0.0
        for row in rows:
            self.finished += 1
            values = {"finalist": row["candidate"], "rung": row["rung"], "finalist_step": row["step"]}
            values |= {f"finalist_{name}": row[name] for name in ("accuracy", "stderr", "loss", "seconds")}
            self.tracker.log(self.finished, values, left=self.seconds_left())
        best, worst = rows[0]["accuracy"], rows[-1]["accuracy"]
        going = sum(row["goes_on"] for row in rows)
        then = f"{going} of {len(rows)} go on" if going else f"candidate {rows[0]['candidate']} is the best"
        self.tracker.print(
            f"search: finalists, rung {number + 1} of {len(self.rungs)}, step {rows[0]['step']:,}: accuracy "
            f"{worst:.4f} to {best:.4f}; {then}"
        )
        for row in rows:
            if row["skipped"]:
                self.tracker.print(
                    f"search: finalist {row['candidate']}: {row['skipped']} steps skipped, gradient not finite"
                )
