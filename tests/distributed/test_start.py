"""Where training starts: own checkpoint, `resume_from`, `init_weights`, scratch; and which checkpoints are kept.

Reference: the checkpoints and weights of a first run of 20 steps.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.helpers.digits import write_digits
from tests.helpers.launching import ROOT, run_commands
from vitas_ds import config
from vitas_ds.errors import UserError
from vitas_ds.models.supernet import Supernet
from vitas_ds.recipe import load
from vitas_ds.training import resume
from vitas_ds.training.resume import Origin

TINY = ROOT / "tests" / "fixtures" / "tiny.yaml"


def train(folder: Path, runs: dict[str, list[str]]) -> list[str]:
    """Train the runs of the given names and overrides in one process and return their outputs."""
    shared = [f"run.dir={folder}/runs", f"data.train={folder}/digits/train", "supernet.save_every=5"]
    starts = (["train-supernet", str(TINY), f"run.name={name}", *shared, *args] for name, args in runs.items())
    results = run_commands(*starts)
    for result in results:
        assert result.returncode == 0, result.stdout + result.stderr
    return [result.stdout + result.stderr for result in results]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with images, and a run of 20 steps that keeps the checkpoints of steps 10 and 20."""
    folder = tmp_path_factory.mktemp("origin")
    write_digits(folder / "digits")
    args = ["supernet.keep=1", "supernet.keep_every=10", "supernet.keep_best=false"]
    (output,) = train(folder, {"first": args})
    assert "starting from scratch" in output
    return folder


@pytest.fixture(scope="module")
def outputs(trained: Path) -> list[str]:
    """Outputs of two more runs: one resumes the first at step 10, the other starts with its weights."""
    file = trained / "runs" / "first" / "supernet" / "weights.safetensors"
    return train(
        trained,
        {
            "second": [f"supernet.resume_from={middle_checkpoint(trained)}"],
            "third": [f"supernet.init_weights={file}", "supernet.lr=1e-12", "supernet.epochs=1"],
        },
    )


def middle_checkpoint(folder: Path) -> Path:
    return folder / "runs" / "first" / "supernet" / "checkpoints" / "step-00000010"


def weights(folder: Path, name: str):
    return load_file(folder / "runs" / name / "supernet" / "weights.safetensors")


def test_retention(trained: Path) -> None:
    assert sorted(path.name for path in middle_checkpoint(trained).parent.iterdir()) == [
        "step-00000010",
        "step-00000020",
    ]


def test_resume_from_another_run(trained: Path, outputs: list[str]) -> None:
    assert f"resuming at step 10 of 20 from {middle_checkpoint(trained)}" in outputs[0]
    resumed, expected = weights(trained, "second"), weights(trained, "first")
    assert all((resumed[name] == expected[name]).all() for name in expected)


def test_init_weights_start_at_step_0(trained: Path, outputs: list[str]) -> None:
    file = trained / "runs" / "first" / "supernet" / "weights.safetensors"
    assert f"starting from the weights in {file}" in outputs[1] and "train-supernet: 10 steps" in outputs[1]
    started, expected = weights(trained, "third"), weights(trained, "first")
    assert all((started[name] - expected[name]).abs().max() < 1e-9 for name in expected)


def test_order_of_origins(trained: Path, tmp_path: Path) -> None:
    checkpoints, file = middle_checkpoint(trained).parent, tmp_path / "model.safetensors"
    shutil.copy(trained / "runs" / "first" / "supernet" / "weights.safetensors", file)

    def find(own: Path, **fields: str) -> Origin:
        return resume.find_origin(own, config.Training(**fields), "supernet")

    newest = checkpoints / "step-00000020"
    assert find(checkpoints, resume_from=str(middle_checkpoint(trained))) == Origin(newest, own=True)
    assert find(checkpoints, init_weights=str(file)) == Origin(newest, own=True)
    assert find(tmp_path, resume_from=str(middle_checkpoint(trained))) == Origin(middle_checkpoint(trained))
    assert find(tmp_path, resume_from=str(checkpoints)) == Origin(newest)
    assert find(tmp_path, init_weights=str(file)) == Origin(weights=file)
    assert find(tmp_path, init_weights=str(middle_checkpoint(trained))) == Origin(weights=middle_checkpoint(trained))
    assert find(tmp_path) == Origin()


def test_user_errors(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"supernet.resume_from: .*: not a checkpoint"):
        resume.find_origin(tmp_path, config.Training(resume_from=str(tmp_path)), "supernet")
    with pytest.raises(UserError, match=r"retrain.init_weights: /nowhere: not a checkpoint or a .safetensors file"):
        resume.find_origin(tmp_path, config.Training(init_weights="/nowhere"), "retrain")
    torn = shutil.copytree(middle_checkpoint(trained), tmp_path / "step-00000010")
    (torn / "shard-00000.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"supernet.resume_from: damaged checkpoint: .*shard-00000"):
        resume.find_origin(tmp_path / "own", config.Training(resume_from=str(torn)), "supernet")
    with pytest.raises(UserError, match="cannot read weights"):
        resume.load_weights(Supernet(load(str(TINY), []).space, "bilateral", 2), torn / "state.json")
    other = Supernet(load(str(TINY), ["space.mlp_dim=128"]).space, "bilateral", 2)
    for path in (middle_checkpoint(trained), trained / "runs" / "first" / "supernet" / "weights.safetensors"):
        with pytest.raises(UserError, match=r"of another network: tensor \S*mlp\S* has shape .*, expected"):
            resume.load_weights(other, path)
    with pytest.raises(UserError, match="keep_every 7 is not a multiple of save_every 5"):
        load(str(TINY), ["supernet.save_every=5", "supernet.keep_every=7"])
    with pytest.raises(UserError, match="not both"):
        load(str(TINY), ["supernet.resume_from=a", "supernet.init_weights=b"])
