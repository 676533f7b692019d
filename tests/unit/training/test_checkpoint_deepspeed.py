"""Files that pretend to be a checkpoint of DeepSpeed. Real ones are in tests/distributed/test_deepspeed_checkpoints.py.

Reference: a pickle with code, whose effect would be a file.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from vitas_ds.errors import UserError
from vitas_ds.training.checkpoint_deepspeed import consolidate, find


class Code:
    """An object whose unpickling runs a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_no_code_runs(tmp_path: Path) -> None:
    torch.save({"module": {}, "x": Code(tmp_path / "ran")}, tmp_path / "mp_rank_00_model_states.pt")
    with pytest.raises(UserError, match="contains other objects than tensors and numbers") as raised:
        consolidate(tmp_path)
    assert not (tmp_path / "ran").exists() and "\n" not in str(raised.value)


def test_folders(tmp_path: Path) -> None:
    assert find(tmp_path) is None
    (tmp_path / "latest").write_text("step-1\n")
    with pytest.raises(UserError, match="latest: names step-1, which is not a checkpoint of DeepSpeed"):
        find(tmp_path)
    (tmp_path / "step-1").mkdir()
    torch.save({"module": {}}, tmp_path / "step-1" / "mp_rank_00_model_states.pt")
    assert find(tmp_path) == find(tmp_path / "step-1") == tmp_path / "step-1"
    with pytest.raises(UserError, match="without ZeRO stage or number of ranks"):
        consolidate(tmp_path / "step-1")
