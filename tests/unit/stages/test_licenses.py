"""Licenses of networks that were trained here.

Reference: the license of the folder that the first training started from.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.networks import random_network
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.config import Config
from vitas_ds.export.folder import Preprocess, write_model
from vitas_ds.run.files import write_json, write_text
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.start import open_run
from vitas_ds.stages.licenses import license_of_training

NETWORK = random_network(SubnetSpec(28, 7, 32, 10, (LayerSpec(2, 48, 64),)))


def config_of(root: Path, name: str = "b", **retrain: str) -> Config:
    return Config.model_validate({"run": {"name": name, "dir": str(root)}, "retrain": retrain})


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run that trains a network with another license; it has a checkpoint and no model yet."""
    write_model(NETWORK, tmp_path / "net", Preprocess(28), "net", {}, license="cc-by-nc-4.0")
    run = open_run(config_of(tmp_path, "a", init=str(tmp_path / "net")), True)
    write_json(run.retrain.checkpoints / "step-00000003" / "manifest.json", {})
    return run


def test_of_a_model_and_of_random_weights(tmp_path: Path, run: RunDir) -> None:
    assert license_of_training(config_of(tmp_path, init=str(tmp_path / "net"))) == "cc-by-nc-4.0"
    assert license_of_training(config_of(tmp_path)) == "apache-2.0"
    assert license_of_training(config_of(tmp_path, init=str(tmp_path / "gone"))) == "unknown"


@pytest.mark.parametrize("setting", ["init", "resume_from", "init_weights"])
def test_of_a_checkpoint_is_that_of_its_run(tmp_path: Path, run: RunDir, setting: str) -> None:
    step = run.retrain.checkpoints / "step-00000003"
    assert license_of_training(config_of(tmp_path, **{setting: str(step)})) == "cc-by-nc-4.0"
    write_model(NETWORK, run.retrain_model, Preprocess(28), "a", {}, license="mit")  # the run has ended
    assert license_of_training(config_of(tmp_path, **{setting: str(step)})) == "mit"
    (tmp_path / "elsewhere" / "deep" / "down").mkdir(parents=True)
    elsewhere = step.rename(tmp_path / "elsewhere" / "deep" / "down" / "step-00000003")
    assert license_of_training(config_of(tmp_path, **{setting: str(elsewhere)})) == "unknown"


def test_of_a_run_that_does_not_tell_it(tmp_path: Path, run: RunDir) -> None:
    """Weights in the run that starts from them, and settings of another version."""
    own = config_of(tmp_path, "own", init_weights=str(tmp_path / "own" / "weights.safetensors"))
    open_run(own, True)
    assert license_of_training(own) == "unknown"
    write_text(run.config, "retrain: {removed_key: 1}")
    step = run.retrain.checkpoints / "step-00000003"
    assert license_of_training(config_of(tmp_path, init=str(step))) == "unknown"


def test_of_a_file_in_a_model_folder(tmp_path: Path, run: RunDir) -> None:
    file = tmp_path / "net" / "model.safetensors"
    assert license_of_training(config_of(tmp_path, init_weights=str(file))) == "cc-by-nc-4.0"
