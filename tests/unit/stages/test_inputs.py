"""Results of other inputs are found.

Reference: files changed by hand.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from vitas_ds.config import Config
from vitas_ds.data.sources import read_folder
from vitas_ds.errors import Stale, UserError
from vitas_ds.run.run_dir import RunDir
from vitas_ds.stages import inputs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(5):
            (tmp_path / "train" / name / f"{i}.jpg").write_bytes(bytes(10 + i))
    return tmp_path / "train"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    return RunDir(tmp_path / "runs" / "a")


def record(run: RunDir, folder: Path, **digests: str) -> None:
    inputs.record_inputs(run, "train-supernet", run.supernet.path, {"train": read_folder(folder)}, digests)


def test_changed_images_and_weights_are_named(run: RunDir, folder: Path, tmp_path: Path) -> None:
    record(run, folder, weights="a")
    recorded = json.loads((run.supernet.path / "inputs.json").read_text())
    assert recorded == {"version": inputs.VERSION, "train": "train-1", "weights": "a"}
    shutil.copytree(folder, tmp_path / "copy")
    record(run, tmp_path / "copy", weights="a")  # elsewhere
    with pytest.raises(Stale, match="weights are not the same") as caught:
        record(run, folder, weights="b")
    assert (caught.value.stage, caught.value.run) == ("train-supernet", str(run.path))
    (folder / "dog" / "3.jpg").write_bytes(b"repaired")
    with pytest.raises(Stale, match=r"train images: 1 file differs, e\.g\. dog/3\.jpg"):
        record(run, folder, weights="a")
    inputs.check_inputs(run, "train-supernet", run.supernet.path, {"train": None}, {"weights": None})  # not there
    inputs.check_inputs(
        run, "retrain", run.retrain.path, {"train": read_folder(folder)}, {"weights": "c"}
    )  # no results
    changed = run.supernet.path / "inputs.json"
    changed.write_text(json.dumps(recorded | {"version": "0"}))
    with pytest.raises(Stale, match="version is not the same"):
        record(run, folder, weights="a")


def test_a_record_of_another_type(run: RunDir, folder: Path) -> None:
    record(run, folder, weights="a")
    file = run.supernet.path / "inputs.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"train": -1}))
    config = Config.model_validate({"data": {"train": str(folder)}})
    for read in (lambda: record(run, folder, weights="a"),
                 lambda: inputs.check_training_images(config, run, read_folder(folder))):  # fmt: skip
        with pytest.raises(UserError, match=r"inputs\.json: train: must be text \(given: -1\); restore it"):
            read()


def test_equal_images_have_one_version(run: RunDir, folder: Path) -> None:
    for expected in ("train-1", "train-1"):
        assert inputs.version_of(run, "train", read_folder(folder)) == expected
    (folder / "cat" / "0.jpg").write_bytes(b"")
    assert inputs.version_of(run, "train", read_folder(folder)) == "train-2"
    (folder / "cat" / "0.jpg").write_bytes(bytes(10))
    assert inputs.version_of(run, "train", read_folder(folder)) == "train-1"
    assert sorted(path.name for path in run.contents.iterdir()) == ["train-1.txt", "train-2.txt"]


def test_other_images_in_another_folder_are_refused(run: RunDir, folder: Path, tmp_path: Path) -> None:
    config = Config()
    record(run, folder)
    shutil.copytree(folder, tmp_path / "copy")
    inputs.check_training_images(config, run, read_folder(tmp_path / "copy"))
    for root in (folder, tmp_path / "copy"):
        (root / "dog" / "3.jpg").write_bytes(b"repaired")
    with pytest.warns(UserWarning, match=r"has changed since train-supernet: 1 file differs, e\.g\. dog/3\.jpg"):
        inputs.check_training_images(config, run, read_folder(folder))
    with pytest.raises(UserError, match=r"copy has other images than this run was trained on \(1 file differs"):
        inputs.check_training_images(config, run, read_folder(tmp_path / "copy"))


def test_initial_weights(run: RunDir, tmp_path: Path) -> None:
    def digest(init: str) -> str | None:
        return inputs.initial_weights_id(Config.model_validate({"retrain": {"init": init}}), run)

    assert digest("scratch") is None and digest("supernet") is None and digest(str(tmp_path)) is None
    for path in (run.supernet_weights, tmp_path / "model" / "model.safetensors", run.retrain_weights):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(path))
    found = [digest(name) for name in ("supernet", str(tmp_path / "model"), str(run.path))]
    assert found == [inputs.file_digest(p) for p in (
        run.supernet_weights, tmp_path / "model" / "model.safetensors", run.retrain_weights,
    )]  # fmt: skip
