"""Training never restarts silently if all checkpoints are damaged.

Reference: checkpoints damaged on purpose.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from vitas_ds.config import Training
from vitas_ds.engine.engine import Engine
from vitas_ds.errors import UserError
from vitas_ds.training import checkpoint
from vitas_ds.training.resume import Origin, find_origin


def test_scratch_without_a_checkpoint(tmp_path: Path) -> None:
    assert find_origin(tmp_path / "checkpoints", Training(), "supernet").checkpoint is None


def test_only_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    (tmp_path / "step-00000001").mkdir()
    with (
        warnings.catch_warnings(action="error"),  # one line for one problem
        pytest.raises(UserError, match=r"no checkpoint is intact: .*manifest\.json is missing; ") as error,
    ):
        find_origin(tmp_path, Training(), "supernet")
    assert "\n" not in str(error.value) and (tmp_path / "step-00000001").is_dir()


def test_an_exported_model_is_refused_as_a_checkpoint_of_the_same_training(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(
        UserError, match=rf"^retrain.init_weights: {tmp_path}: an exported model; retrain.init={tmp_path} "
    ):
        find_origin(tmp_path / "checkpoints", Training(init_weights=str(tmp_path)), "retrain")


def test_a_checkpoint_for_the_replay_of_a_divergence_is_refused(saved: Path, engine: Engine, tmp_path: Path) -> None:
    own, path = tmp_path / "own", saved / "divergence"
    checkpoint.save(engine, path, 3, {})
    with pytest.raises(UserError, match=rf"^supernet.resume_from: {path}: only for --replay of a divergence"):
        find_origin(own, Training(resume_from=str(path)), "supernet")
    found = find_origin(own, Training(resume_from=str(saved)), "supernet")
    assert found == Origin(saved / "step-00000003")


def test_descriptions_of_the_start() -> None:
    assert Origin().describe(0, 9) == "starting from scratch"
    assert Origin(init="the weights of the supernet").describe(0, 9) == "starting from the weights of the supernet"
    assert Origin(weights=Path("a.safetensors")).describe(0, 9) == "starting from the weights in a.safetensors"
    assert Origin(Path("b"), own=True).describe(3, 9) == "resuming at step 3 of 9"
