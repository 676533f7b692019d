"""Where a training starts from: own checkpoint, given one, given weights, scratch; and which checkpoints stay."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.helpers.digits import write_digits
from tests.helpers.launching import ROOT, run_stage
from vitas_ds import config
from vitas_ds.errors import UserError
from vitas_ds.models.supernet import Supernet
from vitas_ds.recipe import load
from vitas_ds.training import resume
from vitas_ds.training.resume import Origin

TINY = ROOT / "tests" / "fixtures" / "tiny.yaml"


def train(folder: Path, name: str, *overrides: str) -> str:
    words = [f"run.dir={folder}/runs", f"run.name={name}", f"data.train={folder}/digits/train", "supernet.save_every=5"]
    return run_stage("train-supernet", [str(TINY), *words, *overrides], "alone", 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and a run of 20 steps that keeps every tenth."""
    folder = tmp_path_factory.mktemp("origin")
    write_digits(folder / "digits")
    words = ["supernet.keep=1", "supernet.keep_every=10", "supernet.keep_best=false"]
    assert "starting from scratch" in train(folder, "first", *words)
    return folder


def given(folder: Path) -> Path:
    return folder / "runs" / "first" / "supernet" / "checkpoints" / "step-00000010"


def weights(folder: Path, name: str):
    return load_file(folder / "runs" / name / "supernet" / "weights.safetensors")


def test_retention(trained: Path) -> None:
    assert sorted(path.name for path in given(trained).parent.iterdir()) == ["step-00000010", "step-00000020"]


def test_a_given_checkpoint_is_gone_on_from(trained: Path) -> None:
    output = train(trained, "second", f"supernet.resume_from={given(trained)}")
    assert f"going on from step 10 of 20 of {given(trained)}" in output
    ours, theirs = weights(trained, "second"), weights(trained, "first")
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_given_weights_start_at_step_0(trained: Path) -> None:
    file = trained / "runs" / "first" / "supernet" / "weights.safetensors"
    output = train(trained, "third", f"supernet.init_weights={file}", "supernet.lr=1e-12", "supernet.epochs=1")
    assert f"starting with the weights of {file}" in output and "train-supernet: 10 steps" in output
    ours, theirs = weights(trained, "third"), weights(trained, "first")
    assert all((ours[name] - theirs[name]).abs().max() < 1e-9 for name in theirs)


def test_order(trained: Path, tmp_path: Path) -> None:
    checkpoints, file = given(trained).parent, tmp_path / "model.safetensors"
    shutil.copy(trained / "runs" / "first" / "supernet" / "weights.safetensors", file)

    def find(own: Path, **fields: str) -> Origin:
        return resume.find(own, config.Training(**fields), "supernet")

    newest = checkpoints / "step-00000020"
    assert find(checkpoints, resume_from=str(given(trained))) == Origin(newest, own=True)
    assert find(checkpoints, init_weights=str(file)) == Origin(newest, own=True)
    assert find(tmp_path, resume_from=str(given(trained))) == Origin(given(trained))
    assert find(tmp_path, resume_from=str(checkpoints)) == Origin(newest)
    assert find(tmp_path, init_weights=str(file)) == find(tmp_path, init_weights=str(tmp_path)) == Origin(weights=file)
    assert find(tmp_path, init_weights=str(given(trained))) == Origin(weights=given(trained))
    assert find(tmp_path) == Origin()


def test_mistakes(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"supernet.resume_from: .*no checkpoint"):
        resume.find(tmp_path, config.Training(resume_from=str(tmp_path)), "supernet")
    with pytest.raises(UserError, match=r"retrain.init_weights: /nowhere: no checkpoint, no .safetensors"):
        resume.find(tmp_path, config.Training(init_weights="/nowhere"), "retrain")
    torn = shutil.copytree(given(trained), tmp_path / "step-00000010")
    (torn / "shard-00000.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"supernet.resume_from: not a whole checkpoint: .*shard-00000"):
        resume.find(tmp_path / "own", config.Training(resume_from=str(torn)), "supernet")
    with pytest.raises(UserError, match="cannot be read as weights"):
        resume.load_weights(Supernet(load(str(TINY), []).space, "bilateral", 2), torn / "state.json")
    other = Supernet(load(str(TINY), ["space.mlp_dim=128"]).space, "bilateral", 2)
    for path in (given(trained), trained / "runs" / "first" / "supernet" / "weights.safetensors"):
        with pytest.raises(UserError, match=r"of another network: \S*mlp\S* is .* there and .* here"):
            resume.load_weights(other, path)
    with pytest.raises(UserError, match="keep_every 7 is not a multiple of save_every 5"):
        load(str(TINY), ["supernet.save_every=5", "supernet.keep_every=7"])
    with pytest.raises(UserError, match="not both"):
        load(str(TINY), ["supernet.resume_from=a", "supernet.init_weights=b"])
