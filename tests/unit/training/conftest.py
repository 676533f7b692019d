"""Fixtures: an engine of a toy supernet, and three of its checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import toy_supernet as toy
from vitas_ds.distributed import comm
from vitas_ds.engine.engine import Engine
from vitas_ds.training import checkpoint


@pytest.fixture
def engine() -> Engine:
    return toy.start(toy.Case("zero1", ema=0.5), comm.init("cpu", timeout=60))


@pytest.fixture
def saved(engine: Engine, tmp_path: Path) -> Path:
    """Folder with the checkpoints of steps 1, 2 and 3."""
    for step in range(3):
        toy.train_step(engine, toy.Case("zero1", ema=0.5), step)
        checkpoint.save(engine, tmp_path, step + 1, {"images": 16 * (step + 1), "note": ["ü", None]})
    return tmp_path
