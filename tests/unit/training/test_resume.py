"""Checkpoints of which none is whole are not silently trained over."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitas_ds.config import Training
from vitas_ds.errors import UserError
from vitas_ds.training.resume import find


def test_scratch_where_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert find(tmp_path / "checkpoints", Training(), "supernet").checkpoint is None


def test_no_whole_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "step-00000001").mkdir()
    with pytest.warns(UserWarning, match="manifest.json"), pytest.raises(UserError, match="is whole") as error:
        find(tmp_path, Training(), "supernet")
    assert "\n" not in str(error.value) and (tmp_path / "step-00000001").is_dir()
