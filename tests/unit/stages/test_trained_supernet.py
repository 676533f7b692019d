"""The weights that a run loads are those that it has trained.

Reference: the saved weights; another run's file in their place.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.helpers.paths import FIXTURES
from vitas_ds.config import Config
from vitas_ds.errors import UserError
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.recipe import load
from vitas_ds.run import tensor_digests
from vitas_ds.run.files import replacing, write_tensors
from vitas_ds.run.run_dir import RunDir, run_of
from vitas_ds.run.start import open_run
from vitas_ds.run.summary import write_result
from vitas_ds.stages.trained_supernet import load_supernet


def recipe(folder: Path, name: str, *overrides: str) -> Config:
    return load(
        str(FIXTURES / "tiny.yaml"), [f"run.dir={folder}", f"run.name={name}", "data.synthetic=true", *overrides]
    )


def train(config: Config, seed: int) -> RunDir:
    """Write what the stage train-supernet ends with."""
    run = open_run(config, True)
    supernet = Supernet(config.space, config.supernet.sharing, config.supernet.private_attention, class_token_only=True)
    init_weights(supernet, seed)
    weights = {name: tensor.contiguous() for name, tensor in supernet.state_dict().items()}
    with replacing(run.supernet_weights) as aside:
        write_tensors(aside, weights, tensor_digests.metadata_of(weights))
        write_result(run, "train-supernet", {"steps": 20, "loss": 1.5}, aside)
    return run


def test_another_runs_weights_in_their_place(tmp_path: Path) -> None:
    config = recipe(tmp_path, "a")
    run, other = train(config, 1), train(recipe(tmp_path, "b"), 2)
    own, digest = load_supernet(config, run)
    supernet, _ = load_supernet(recipe(tmp_path, "c", f"search.checkpoint={run.path}"), RunDir(tmp_path / "c"))
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), supernet.parameters(), strict=True))
    shutil.copy(other.supernet_weights, run.supernet_weights)
    message = rf"{run.supernet_weights}: not the weights that train-supernet has trained"
    with pytest.raises(UserError, match=message):
        load_supernet(config, run)
    with pytest.raises(UserError, match=message):
        load_supernet(recipe(tmp_path, "c", f"search.checkpoint={run.path}"), RunDir(tmp_path / "c"))
    named = recipe(tmp_path, "a", f"search.checkpoint={run.supernet_weights}")  # a file of any origin
    assert load_supernet(named, run)[1] != digest
    run.supernet.result.unlink()  # nothing to compare with
    assert load_supernet(config, run_of(config))[1] != digest
