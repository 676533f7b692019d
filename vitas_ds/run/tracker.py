"""Interface of a stage's tracker. The base class ignores every call; all ranks except rank 0 use it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Tracker:
    """A tracker that ignores every call. Close it, or use it as a context manager."""

    def log(
        self, step: int, values: dict[str, Any], *, images: int = 0, left: float | None = None, ideal: float = 0.0,
        shown: dict[str, float] | None = None,
    ) -> None:  # fmt: skip
        """Record the metrics of a step.

        Args:
            step: Number of finished steps.
            values: Numbers or one-element tensors by name.
            images: Images processed since the last call.
            left: Remaining seconds, nan if unknown; None: estimate them from the steps since the start.
            ideal: Seconds of computation since the last call at the peak speed of the device; 0: unknown.
            shown: Earlier values for the progress line, which are not recorded again.
        """

    def evaluation(self, step: int, values: dict[str, Any]) -> None:
        """Record the values of an evaluation after ``step``, in a record of their own."""

    def has_evaluation(self, step: int) -> bool:
        """Return whether the evaluation after ``step`` is recorded."""
        return False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time inside the block from the speed of the steps."""
        yield

    def progress(self, step: int, values: dict[str, Any], left: float) -> None:
        """Print a progress line without recording it, unless the last line is recent."""

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside the block as waiting for data."""
        yield

    def print(self, text: str) -> None:
        """Print a line on the console."""

    def image(self, name: str, path: Path) -> None:
        """Send an image file to W&B."""

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Send a table to W&B."""

    def histogram(self, name: str, values: Any) -> None:
        """Send the distribution of ``values`` to W&B."""

    def artifact(self, name: str, kind: str, path: Path) -> None:
        """Send a file or folder to W&B as a versioned artifact."""

    def summary(self, values: dict[str, Any]) -> None:
        """Send headline numbers to W&B. ``run_dir.update_summary`` writes them to the run folder."""

    def complete(self) -> None:
        """Say that the stage has ended, although it had fewer steps than planned."""

    def close(self, failed: bool = False) -> None:
        """End tracking of the stage."""

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)
