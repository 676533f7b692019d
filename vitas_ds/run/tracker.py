"""The tracker of every rank but the first: it accepts every call and does nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Tracker:
    """The tracker of every rank but the first: takes everything, does nothing. Close it, or use it in ``with``."""

    def log(self, step: int, values: dict[str, Any], *, images: int = 0, left: float | None = None) -> None:
        """Record the values of a step (numbers or one-element tensors); ``images`` were worked on since the last.

        ``left``: seconds that remain (nan: not known yet); None: what the steps since the start tell.
        """

    def tell(self, step: int, values: dict[str, Any], left: float) -> None:
        """Show between two records how far it is, unless the last progress line is recent."""

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent in this block is waiting for data."""
        yield

    def say(self, text: str) -> None:
        """A line on the console."""

    def image(self, name: str, path: Path) -> None:
        """An image file for W&B."""

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """A table for W&B."""

    def histogram(self, name: str, values: Any) -> None:
        """The distribution of some numbers for W&B."""

    def artifact(self, name: str, kind: str, path: Path) -> None:
        """A file or folder that W&B keeps, versioned."""

    def summary(self, values: dict[str, Any]) -> None:
        """The stage's headline numbers for W&B (``run_dir.update_summary`` is the record)."""

    def close(self, failed: bool = False) -> None:
        """End the stage's tracking."""

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)
