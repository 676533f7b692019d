"""Training never restarts silently if all checkpoints are damaged.

Reference: checkpoints damaged on purpose.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from vitas_ds.config import Training
from vitas_ds.errors import UserError
from vitas_ds.training.resume import find_origin


def test_scratch_without_a_checkpoint(tmp_path: Path) -> None:
    assert find_origin(tmp_path / "checkpoints", Training(), "supernet").checkpoint is None


def test_only_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    (tmp_path / "step-00000001").mkdir()
    with (
        pytest.warns(UserWarning, match="manifest.json"),
        pytest.raises(UserError, match="no checkpoint is intact") as error,
    ):
        find_origin(tmp_path, Training(), "supernet")
    assert "\n" not in str(error.value) and (tmp_path / "step-00000001").is_dir()
