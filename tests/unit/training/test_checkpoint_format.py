"""``checkpoint.format: deepspeed`` on one rank: verification, both formats in one folder, and ``latest``.

References: the tensors of the engine that saved. tests/distributed/test_deepspeed_checkpoints.py has two ranks.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
import torch

from tests.helpers import toy_supernet as toy
from vitas_ds.distributed import comm
from vitas_ds.engine.engine import Engine
from vitas_ds.errors import UserError
from vitas_ds.training import checkpoint, checkpoint_files
from vitas_ds.training.checkpoint_deepspeed import find
from vitas_ds.training.checkpoint_reader import consolidate, find_checkpoint

CASE = toy.Case("zero1", ema=0.5)
LATEST = "latest"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, torch.Tensor]]]:
    """Checkpoints of steps 1 to 4, alternately in our format and in that of DeepSpeed, and their state."""
    folder, engine = tmp_path_factory.mktemp("checkpoints"), start()
    states = []
    for step in range(1, 5):
        toy.train_step(engine, CASE, step)
        checkpoint.save(engine, folder, step, {"step": step}, loss=1 / step, deepspeed=step % 2 == 0)
        states.append(toy.full_state(engine))
    return folder, states


def start(zero: str = "zero1", ema: float = 0.5) -> Engine:
    return toy.start(toy.Case(zero, ema=ema), comm.init("cpu", timeout=60))


@pytest.mark.parametrize("zero", ["zero0", "zero3"])
def test_both_formats_load_in_any_stage(saved: tuple[Path, list[dict[str, torch.Tensor]]], zero: str) -> None:
    folder, states = saved
    engine = start(zero)
    for step, expected in enumerate(states, 1):
        assert checkpoint.load(engine, folder / f"step-{step:08d}") == {"step": step}
        found = toy.full_state(engine)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_newest_of_either_format(saved: tuple[Path, list[dict[str, torch.Tensor]]], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(saved[0], folder)
    assert checkpoint_files.newest(folder) == folder / "step-00000004" == find_checkpoint(folder) == find(folder)
    assert checkpoint_files.best(folder) == folder / "step-00000004"
    file = folder / "step-00000004" / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.warns(UserWarning, match=rf"checkpoint skipped: {file} was changed: its SHA-256 does not match"):
        assert find_checkpoint(folder) == folder / "step-00000003"
    with pytest.raises(UserError, match=rf"^search.checkpoint: damaged checkpoint: {file} was changed"):
        find_checkpoint(file.parent, "search.checkpoint")
    with pytest.raises(UserError, match=r"^damaged checkpoint: .* was changed"):
        consolidate(file.parent)
    file.unlink()
    with pytest.warns(UserWarning, match=rf"checkpoint skipped: {file} is missing"):
        assert checkpoint_files.newest(folder) == folder / "step-00000003"
    for path in checkpoint_files.list_checkpoints(folder)[1:]:
        checkpoint_files.remove(path)
    with (
        warnings.catch_warnings(action="error"),  # one line for one problem
        pytest.raises(UserError, match=rf"^retrain.init: damaged checkpoint: {file} is missing; restore the file"),
    ):
        find_checkpoint(folder, "retrain.init")


def test_a_tag_of_another_program_may_be_named_like_a_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(start(), tmp_path, 5, {}, deepspeed=True)
    (tmp_path / "step-00000005" / "manifest.json").unlink()
    with warnings.catch_warnings(action="error"):
        assert find_checkpoint(tmp_path) == tmp_path / "step-00000005"


def test_latest_never_names_a_checkpoint_that_is_gone(tmp_path: Path) -> None:
    engine = start()
    for step, deepspeed in ((1, True), (2, True), (3, False)):
        checkpoint.save(engine, tmp_path, step, {}, deepspeed=deepspeed)
        assert (tmp_path / LATEST).read_text() == f"step-{min(step, 2):08d}"
    checkpoint_files.prune(tmp_path, keep=2)
    assert (tmp_path / LATEST).exists() and len(checkpoint_files.list_checkpoints(tmp_path)) == 2
    checkpoint_files.prune(tmp_path, keep=1)
    assert not (tmp_path / LATEST).exists()
    checkpoint.save(engine, tmp_path, 3, {}, deepspeed=True)
    assert (tmp_path / LATEST).read_text() == "step-00000003"
    checkpoint.save(engine, tmp_path, 3, {})
    assert not (tmp_path / LATEST).exists() and checkpoint_files.verify(tmp_path / "step-00000003") is None


def test_a_training_without_averages_can_start_some(tmp_path: Path) -> None:
    for deepspeed in (False, True):
        path = checkpoint.save(start(ema=0.0), tmp_path / str(deepspeed), 1, {}, deepspeed=deepspeed)
        engine = start()
        checkpoint.load(engine, path)
        assert toy.max_difference(toy.gather_tensors(engine, "ema"), toy.gather_tensors(engine)) == 0
        with pytest.raises(UserError, match=r"no averaged weights; it was trained with ema_decay=0$"):
            consolidate(path, ema=True)


def test_a_checkpoint_of_another_network(saved: tuple[Path, list[dict[str, torch.Tensor]]]) -> None:
    engine = start()
    engine.shapes = {"other": (1,)}
    with pytest.raises(UserError, match=r"step-00000004: checkpoint of another network: tensor other is missing$"):
        checkpoint.load(engine, saved[0] / "step-00000004")
