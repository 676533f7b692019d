"""Inherited weights and a teacher in both training stages: resume, ZeRO stages, errors.

References: an uninterrupted run, and the same training on one rank.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.helpers.digits import write_digits
from tests.helpers.launching import ROOT, run_commands, run_stage
from vitas_ds.export.folder import read_model, read_preprocess, write_model

TINY = ROOT / "tests" / "fixtures" / "tiny.yaml"
SPECS = {
    "small": {"patch_size": 7, "embed_dim": 16, "layers": [{"num_heads": 2, "qkv_dim": 48, "mlp_dim": 64}] * 2},
    "big": {"patch_size": 14, "embed_dim": 40, "layers": [{"num_heads": 4, "qkv_dim": 96, "mlp_dim": 80}] * 2},
}
# CutMix and drop path draw per rank, so one rank would see other images than two
EQUAL = ["mixing.cutmix=0", "log_every=1", "ema_decay=0.9", "save_every=10", "keep=9"]
TEACHER = {"retrain": ["teacher.weight=0.6", "teacher.temperature=2"], "supernet": ["teacher.kind=hard"]}


def words(folder: Path, name: str, section: str, *more: str) -> list[str]:
    """Return the arguments of a training with a teacher; a retraining starts with weights of the supernet."""
    own = [f"{section}.{word}" for word in (*EQUAL, *TEACHER[section], f"teacher.model={folder}/runs/big")]
    if section == "retrain":
        own += [f"retrain.spec={folder}/small.json", "retrain.init=supernet", "retrain.drop_path_rate=0",
                f"search.checkpoint={folder}/runs/base/supernet/weights.safetensors"]  # fmt: skip
    return [str(TINY), f"run.dir={folder}/runs", f"run.name={name}", f"data.train={folder}/digits/train", *own, *more]


STAGE = {"retrain": "retrain", "supernet": "train-supernet"}
FILE = {"retrain": "retrain/model/model.safetensors", "supernet": "supernet/weights.safetensors"}


def weights(folder: Path, name: str, section: str) -> dict:
    return load_file(folder / "runs" / name / FILE[section])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with a supernet, a teacher, and a training of each section on one rank; and the outputs."""
    folder = tmp_path_factory.mktemp("teaching")
    write_digits(folder / "digits")
    for name, spec in SPECS.items():
        (folder / f"{name}.json").write_text(json.dumps({"image_size": 28, "num_classes": 10} | spec))
    plain = [str(TINY), f"run.dir={folder}/runs", f"data.train={folder}/digits/train"]
    starts = {
        "base": ["train-supernet", *plain, "run.name=base"],
        "big": ["retrain", *plain, "run.name=big", f"retrain.spec={folder}/big.json", "retrain.epochs=4"],
        "retrain": ["retrain", *words(folder, "retrain", "retrain")],
        "supernet": ["train-supernet", *words(folder, "supernet", "supernet")],
    }
    results = run_commands(*starts.values())
    for result in results:
        assert result.returncode == 0, result.stdout + result.stderr
    return folder, {name: r.stdout + r.stderr for name, r in zip(starts, results, strict=True)}


def losses(folder: Path, name: str, section: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["stage"] == STAGE[section] and "loss" in line]


def test_the_start_names_the_side_of_the_supernet(done: tuple[Path, dict[str, str]]) -> None:
    assert (
        "retrain: starting from the " in done[1]["retrain"] and " side of the supernet (accuracy" in done[1]["retrain"]
    )
    assert "starting from scratch" in done[1]["supernet"]


@pytest.mark.parametrize(
    ("section", "zero"), [("retrain", "zero3"), ("supernet", "zero3"), ("retrain", "zero0"), ("supernet", "zero2")]
)
def test_two_ranks_equal_one(done: tuple[Path, dict[str, str]], section: str, zero: str) -> None:
    folder, name = done[0], f"{section}-{zero}"
    run_stage(STAGE[section], words(folder, name, section, f"engine.zero={zero}"), launcher="torchrun")
    one, two = losses(folder, section, section), losses(folder, name, section)
    assert len(one) == len(two) >= 20
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 2e-5
    assert weights(folder, name, section).keys() == weights(folder, section, section).keys()


@pytest.mark.parametrize("section", ["retrain", "supernet"])
def test_a_resumed_training_is_bitwise_equal_and_needs_the_same_teacher(
    done: tuple[Path, dict[str, str]], section: str
) -> None:
    folder, name = done[0], f"{section}-cut"
    run = folder / "runs" / name
    shutil.copytree(folder / "runs" / section, run)
    kept = run / section / "checkpoints" / "step-00000010"
    for path in kept.parent.iterdir():
        if path != kept:
            shutil.rmtree(path)
    shutil.rmtree(run / "retrain" / "model", ignore_errors=True)
    (run / "supernet" / "weights.safetensors").unlink(missing_ok=True)
    teacher, before = folder / "runs" / "big" / "retrain" / "model", folder / f"before-{name}"
    shutil.copytree(teacher, before)
    write_model(read_model(teacher), teacher, replace(read_preprocess(teacher), mean=(0.4, 0.5, 0.5)), "other", {})
    # a resumed retraining does not read the supernet
    line = [STAGE[section], *words(folder, name, section, "search.checkpoint=null")]
    other = [*line, f"{section}.teacher.model={folder}/runs/retrain"]
    none = [*line, f"{section}.teacher.model=null"]
    without, moved, changed = run_commands(none, other, line)
    shutil.rmtree(teacher)
    before.rename(teacher)
    (resumed,) = run_commands(line)
    reasons = ["belongs to a run with", "belongs to a run with", "not the teacher of the training that wrote"]
    for result, reason in zip((without, moved, changed), reasons, strict=True):
        assert result.returncode == 2 and "Traceback" not in result.stderr
        (error,) = [line for line in result.stderr.splitlines() if line.startswith("vitas ")]
        assert f"{section}.teacher.model" in error and reason in error
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "resuming at step 10" in resumed.stdout
    got, expected = weights(folder, name, section), weights(folder, section, section)
    assert all((got[key] == expected[key]).all() for key in expected)
    assert losses(folder, name, section) == losses(folder, section, section)


def test_a_teacher_is_not_in_the_checkpoint(done: tuple[Path, dict[str, str]]) -> None:
    for section in ("retrain", "supernet"):
        newest = sorted((done[0] / "runs" / section / section / "checkpoints").iterdir())[-1]
        shapes = json.loads((newest / "manifest.json").read_text())["shapes"]
        assert set(shapes) == set(weights(done[0], section, section))
        assert len(json.loads((newest / "state.json").read_text())["loop"]["teacher"]) == 64
