"""``vitas consolidate`` with checkpoints of a real engine.

Reference: the weights of the engine that wrote the checkpoint.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import toy_supernet as toy
from vitas_ds.__main__ import main
from vitas_ds.distributed import comm
from vitas_ds.training import checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 1 and 2; step 1 has the lower loss."""
    place, case = tmp_path_factory.mktemp("checkpoints"), toy.Case("zero3", ema=0.5)
    engine = toy.start(case, comm.init("cpu", timeout=60))
    for step, loss in ((1, 0.5), (2, 0.7)):
        toy.train_step(engine, case, step)
        checkpoint.save(engine, place, step, {}, loss=loss)
    return place


@pytest.mark.parametrize(
    ("words", "step", "kind"),
    [([], 2, "weight"), (["--best"], 1, "weight"), (["--ema"], 2, "ema"), (["--best", "--ema"], 1, "ema")],
)
def test_file_has_the_weights_of_the_checkpoint(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], step: int, kind: str
) -> None:
    out, path = tmp_path / "new" / "weights.safetensors", folder / f"step-{step:08d}"
    assert main(["consolidate", str(folder), "--out", str(out), *words]) == 0
    assert str(path) in capsys.readouterr().out
    stored, got = load_file(path / "shard-00000.safetensors"), load_file(out)
    assert set(got) == set(toy.Toy().state_dict())
    for name, p in toy.Toy().named_parameters():
        assert torch.equal(got[name], stored[f"{kind}/{name}"].view(p.shape)), name


@pytest.mark.parametrize(("damaged", "old", "new", "used"), [(2, "0.7", "0.1", 1), (1, "0.5", "0.9", 2)])
def test_best_does_not_trust_a_damaged_state(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damaged: int, old: str, new: str, used: int
) -> None:
    copy = tmp_path / "checkpoints"
    shutil.copytree(folder, copy)
    state = copy / f"step-{damaged:08d}" / "state.json"
    assert f'"loss": {old}' in state.read_text()
    state.write_text(state.read_text().replace(f'"loss": {old}', f'"loss": {new}'))
    assert main(["consolidate", str(copy), "--best", "--out", str(tmp_path / "weights.safetensors")]) == 0
    printed = capsys.readouterr()
    assert f"weights of {copy}/step-{used:08d}," in printed.out
    assert printed.err.startswith(f"warning: checkpoint skipped: {state} was changed") and printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "words", "line"),
    [
        ("", ["--best"], "--best: {} is one checkpoint"),
        ("..", ["--out", "/proc/nowhere/x"], "/proc/nowhere/x: cannot be written"),
        ("nowhere", [], "{}: no complete checkpoint or folder of checkpoints"),
        ("nowhere", ["--best"], "{}: no checkpoint with a recorded loss"),
    ],
)
def test_user_errors_are_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, words: list[str], line: str
) -> None:
    given = folder / "step-00000002" / path
    assert main(["consolidate", str(given), "--out", str(tmp_path / "x"), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"vitas consolidate: {line.format(given)}") and error.count("\n") == 1


def test_a_file_of_a_checkpoint_is_not_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = folder / "step-00000001" / "shard-00000.safetensors"
    before = shard.read_bytes()
    assert main(["consolidate", str(folder), "--out", str(shard), "--force"]) == 2
    assert "is in the folder of a checkpoint; choose another folder" in capsys.readouterr().err
    assert shard.read_bytes() == before
