"""Mirror the metrics of a stage to TensorBoard, with the writer of torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override  # a dependency of pydantic

from vitas_ds.config import Config
from vitas_ds.errors import UserError
from vitas_ds.run.files import to_json
from vitas_ds.run.mirror import Mirror, first_line
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.tracker import Tracker

FLUSH_SECONDS = 10  # a killed run loses at most this much
MAX_ROWS = 100  # TensorBoard displays a table as text, in one piece


class TensorBoardMirror(Mirror):
    """Tracker that writes everything except artifacts for TensorBoard.

    Args:
        writer: A ``SummaryWriter`` of torch.
    """

    def __init__(self, writer: Any) -> None:
        super().__init__("TensorBoard")
        self.writer, self.step = writer, 0

    @override
    def log(
        self, step: int, values: dict[str, Any], *, images: int = 0, left: float | None = None, ideal: float = 0.0,
        shown: dict[str, float] | None = None,
    ) -> None:  # fmt: skip
        self.step = step
        for name, value in values.items():
            if isinstance(value, Real):
                self.attempt(partial(self.writer.add_scalar, name, value, step))

    @override
    def image(self, name: str, path: Path) -> None:
        def add() -> None:
            from PIL import Image

            with Image.open(path) as image:
                self.writer.add_image(name, np.asarray(image.convert("RGB")), self.step, dataformats="HWC")

        self.attempt(add)

    @override
    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        shown = [columns, ["---"] * len(columns), *islice(rows, MAX_ROWS)]
        text = "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in shown)
        self.attempt(lambda: self.writer.add_text(name, text, self.step))

    @override
    def histogram(self, name: str, values: Any) -> None:
        self.attempt(lambda: self.writer.add_histogram(name, np.asarray(values), self.step))

    @override
    def summary(self, values: dict[str, Any]) -> None:
        self.attempt(lambda: self.writer.add_text("summary", f"    {to_json(values)}", self.step))

    @override
    def close(self, failed: bool = False) -> None:
        self.attempt(self.writer.close)


def check_tensorboard(config: Config) -> None:
    """Check that TensorBoard is installed if the recipe asks for it.

    Raises:
        UserError: It is not.
    """
    if config.tracking.tensorboard and find_spec("tensorboard") is None:
        raise UserError("tracking.tensorboard: tensorboard is not installed; pip install -e '.[tensorboard]'")


def open_writer(run: RunDir, stage: str, start_step: int) -> Tracker:
    """Return a tracker that writes to the folder of a stage; one that does nothing if the writer fails to start.

    TensorBoard hides the records of an earlier start after ``start_step``.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter

        folder = str(run.tensorboard / stage)
        return TensorBoardMirror(SummaryWriter(folder, purge_step=start_step + 1, flush_secs=FLUSH_SECONDS))
    except Exception as error:
        warnings.warn(f"TensorBoard does not start, the run continues without it: {first_line(error)}", stacklevel=3)
        return Tracker()


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
