"""Base of the trackers that copy the metrics of a stage to another program."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from vitas_ds.run.tracker import Tracker


class Mirror(Tracker):
    """A tracker whose first error ends it with a warning, never the run.

    Args:
        program: Name of the other program, for the warning.
    """

    def __init__(self, program: str) -> None:
        self.program, self.stopped = program, False

    def attempt(self, action: Callable[[], object]) -> None:
        """Do ``action`` unless an earlier one has failed."""
        if self.stopped:
            return
        try:
            action()
        except Exception as error:
            warnings.warn(
                f"{self.program} stopped, the run continues without it: {first_line(error)}", stacklevel=4
            )  # fmt: skip
            self.stopped = True


def first_line(error: BaseException) -> str:
    """Return the type and the first line of an error."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
