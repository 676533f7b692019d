"""Keep measured latencies on disk."""
# K networks

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.distributed import preemption
from vitas_ds.distributed.comm import from_main, gather
from vitas_ds.errors import Preempted
from vitas_ds.run.files import append_line
from vitas_ds.search.latency.lines import Latency, Line, Setting, format_line, read_lines

CHUNK = 8  # networks measured between two collectives, so that the other ranks do not run into run.timeout


class LatencyCache:
    """Measured latencies of one setting, each written to disk at once. All ranks call it; only rank 0 measures.

    Attributes:
        path: JSON lines file, shared with other settings.
        setting: The setting of the measurements, see ``measure.current_setting``.
        measure_one: Measures a network; None to use only the latencies of the file.
        known: Known latencies by ``spec.key()``.
    """

    def __init__(
        self, path: Path, setting: Setting, measure_one: Callable[[SubnetSpec], Latency] | None = None
    ) -> None:
        self.path, self.setting, self.measure_one = path, setting, measure_one
        self.known: dict[str, Latency] = from_main(self._read)

    def measure(self, specs: list[SubnetSpec]) -> np.ndarray:
        """Return the seconds of each network [K], and measure those not in the cache.

        Without ``measure_one``, unknown networks have nan.

        Raises:
            Preempted: A rank was asked to stop. What was measured is on disk.
        """
        if self.measure_one is not None:
            missing = list({spec.key(): spec for spec in specs if spec.key() not in self.known}.values())
            for start in range(0, len(missing), CHUNK):
                chunk = missing[start : start + CHUNK]
                self.known |= from_main(lambda chunk=chunk: self._measure(chunk))  # type: ignore[misc]
                if any(gather(preemption.requested())):
                    raise Preempted("stopped; measured latencies are saved, start it again to resume")
        return np.array([self.known[spec.key()].seconds if spec.key() in self.known else np.nan for spec in specs])

    def get(self, spec: SubnetSpec) -> Latency | None:
        """Return the latency of a network; None if it is not known."""
        return self.known.get(spec.key())

    def _measure(self, specs: list[SubnetSpec]) -> dict[str, Latency]:
        assert self.measure_one is not None
        measured = {}
        for spec in specs:
            if preemption.requested():
                break
            measured[spec.key()] = latency = self.measure_one(spec)
            append_line(self.path, format_line(Line(spec, latency, self.setting)))
        return measured

    def _read(self) -> dict[str, Latency]:
        """Read the lines of this setting. Invalid lines are skipped: their networks are measured again."""
        return {line.spec.key(): line.latency for line in read_lines(self.path) if line.setting == self.setting}
