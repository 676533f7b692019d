"""Profile a few training steps with torch.profiler: a chrome trace, and the most expensive operators."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from vitas_ds.config import Profile
from vitas_ds.errors import UserError

OPERATORS = 5  # listed


class StepProfiler:
    """Profiles the steps of ``engine.profile``. Call ``before`` and ``after`` around each step.

    Args:
        settings: First step and number of steps.
        trace: File of the chrome trace; its name ends with .json.gz.
        total: Steps of the training.
        cuda: Whether to record kernels.
        records: Whether this rank records. All ranks check the settings, so all stop if they are wrong.
        done: Steps done by earlier starts.

    Raises:
        UserError: A step is after the end of the training.
    """

    def __init__(
        self, settings: Profile, trace: Path, total: int, cuda: bool, records: bool = True, done: int = 0
    ) -> None:
        self.records = records
        self.first, self.last, self.trace = settings.start, settings.start + settings.steps - 1, trace
        if settings.steps and self.last > total:
            raise UserError(
                f"engine.profile: step {self.last:,} is after the end of the training, which has {total:,} steps; "
                "set engine.profile.start and engine.profile.steps to fewer"
            )
        if not settings.steps and settings.start != Profile().start:
            warnings.warn("engine.profile.start is ignored: engine.profile.steps is 0", stacklevel=2)
        if settings.steps and done >= self.last:
            warnings.warn(f"engine.profile is ignored: step {self.last:,} is done already", stacklevel=2)
        self.activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        self.running: profile | None = None

    def before(self, step: int) -> None:
        """Start to record if ``step``, counted from 1, is the first one left to profile."""
        if self.records and self.running is None and self.first <= step <= self.last:
            self.running = profile(activities=self.activities)
            self.running.start()

    def after(self, step: int) -> list[dict[str, Any]] | None:
        """Write the trace after the last step. Returns the most expensive operators then, otherwise None."""
        if self.running is None or step < self.last:
            return None
        recorded, self.running = self.running, None
        recorded.stop()
        self.trace.parent.mkdir(parents=True, exist_ok=True)
        self.trace.unlink(missing_ok=True)  # a link would lead to another file
        recorded.export_chrome_trace(str(self.trace))
        return expensive_operators(recorded, ProfilerActivity.CUDA in self.activities)


def expensive_operators(recorded: profile, cuda: bool) -> list[dict[str, Any]]:
    """Return the operators that took the most time themselves: on the GPU if there is one, else on the CPU.

    Each has ``name``, ``calls``, ``seconds`` and ``share`` of the time of all operators.
    """
    times = [
        ((event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6, event.key, event.count)
        for event in recorded.key_averages()
    ]
    total = sum(seconds for seconds, _, _ in times) or 1.0
    return [
        {"name": name, "calls": calls, "seconds": seconds, "share": seconds / total}
        for seconds, name, calls in sorted(times, key=lambda row: -row[0])[:OPERATORS]
    ]
