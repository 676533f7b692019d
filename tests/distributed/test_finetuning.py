"""Fine-tuning: frozen layers, learning rates per layer, other classes, and the accuracy on held-out images.

References: the weights to start from, an uninterrupted run, the same training on one rank or without measurements, and
a count of the held-out images that the exported network classifies correctly.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import vitas_ds
from tests.helpers.digits import write_digits
from tests.helpers.launching import ROOT, run_commands, run_stage
from vitas_ds.data.loader import decode_all, normalize
from vitas_ds.distributed.comm import Ranks
from vitas_ds.recipe import load
from vitas_ds.stages.held_out import held_out_images
from vitas_ds.training.checkpoint_files import best

TINY = ROOT / "tests" / "fixtures" / "tiny.yaml"
SPEC = {"patch_size": 7, "embed_dim": 16, "layers": [{"num_heads": 2, "qkv_dim": 48, "mlp_dim": 64}] * 3}
# CutMix and drop path draw per rank, so one rank would see other images than two
TUNE = [
    "epochs=2", "mixing.cutmix=0", "drop_path_rate=0", "log_every=1", "ema_decay=0.9", "save_every=10", "keep=9",
    "layer_decay=0.7", "weight_decay=0.3", "eval_images=33", "eval_every=0.3", "lr=0.01",
]  # fmt: skip
FROZEN = {"1": ("cls_token", "pos_embed", "patch_embed", "blocks.0."), "backbone": ("c", "p", "b", "norm")}


def words(folder: Path, name: str, *more: str) -> list[str]:
    """Return the arguments of a fine-tuning on nine of the ten classes."""
    own = [f"retrain.{word}" for word in TUNE] + [f"retrain.init={folder}/runs/base", "space.num_classes=9"]
    return [str(TINY), f"run.dir={folder}/runs", f"run.name={name}", f"data.train={folder}/nine/train", *own, *more]


def weights(folder: Path, name: str) -> dict[str, Tensor]:
    return load_file(folder / "runs" / name / "retrain" / "model" / "model.safetensors")


def rows(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path, name: str) -> list[float]:
    return [row["loss"] for row in rows(folder, name) if "loss" in row]


def accuracies(folder: Path, name: str) -> dict[int, float]:
    return {row["step"]: row["top1"] for row in rows(folder, name) if "top1" in row}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with a trained network and fine-tunings of it on one rank; and the outputs."""
    folder = tmp_path_factory.mktemp("finetuning")
    write_digits(folder / "digits")
    shutil.copytree(folder / "digits", folder / "nine", ignore=lambda _, names: {"9"} & set(names))
    (folder / "net.json").write_text(json.dumps({"image_size": 28, "num_classes": 10} | SPEC))
    base = [str(TINY), f"run.dir={folder}/runs", "run.name=base", f"data.train={folder}/digits/train"]
    checkpoint = f"{folder}/runs/tuned/retrain/checkpoints/step-00000020"
    continued = ["retrain.init=scratch", f"retrain.spec={folder}/net.json", f"retrain.resume_from={checkpoint}"]
    continued += ["retrain.lr=1", "retrain.min_lr=1", "retrain.ema_decay=0.01"]
    starts = {
        "base": ["retrain", *base, f"retrain.spec={folder}/net.json", "retrain.epochs=4"],
        "tuned": ["retrain", *words(folder, "tuned", "retrain.freeze=1")],
        "unmeasured": ["retrain", *words(folder, "unmeasured", "retrain.freeze=1", "retrain.eval_every=0")],
        "continued": ["retrain", *words(folder, "continued", "retrain.freeze=1", *continued)],
        "probe": ["retrain", *words(folder, "probe", "retrain.freeze=backbone", "engine.precision=bf16")],
    }
    results = run_commands(*starts.values())
    for result in results:
        assert result.returncode == 0, result.stdout + result.stderr
    return folder, {name: r.stdout for name, r in zip(starts, results, strict=True)}


@pytest.mark.parametrize(("name", "freeze"), [("tuned", "1"), ("probe", "backbone")])
def test_frozen_weights_are_bitwise_unchanged(done: tuple[Path, dict[str, str]], name: str, freeze: str) -> None:
    assert "starting from the weights in" in done[1][name] and "with a new head for 9 classes" in done[1][name]
    before, after = weights(done[0], "base"), weights(done[0], name)
    frozen = {key for key in after if key.startswith(FROZEN[freeze])}
    assert len(frozen) == {"1": 16, "backbone": len(after) - 2}[freeze]
    for key, value in after.items():
        if key in frozen:
            assert torch.equal(value, before[key]), key
        elif not key.startswith("head"):
            assert not torch.equal(value, before[key]), key
    assert after["head.weight"].shape == (9, 16)


def test_the_accuracy_is_that_of_the_exported_weights(done: tuple[Path, dict[str, str]]) -> None:
    folder, output = done[0], done[1]["tuned"]
    config = load(str(TINY), words(folder, "tuned")[1:])
    images = held_out_images(config)[1]
    pixels = decode_all(images, config.data, 28, Ranks(0, 1, 0, torch.device("cpu")))
    net = vitas_ds.load(folder / "runs" / "tuned" / "retrain" / "model")
    with torch.no_grad():
        hits = int((net(normalize(pixels, config.data)).argmax(1) == torch.from_numpy(images.labels)).sum())
    measured = accuracies(folder, "tuned")
    last = max(measured)
    assert measured[last] == hits / 33 and list(measured)[:-1] == list(range(3, last, 3))
    assert f"top-1 accuracy of the averaged weights {hits / 33:.1%} on 33 held-out images" in output
    assert f"  top-1 {measured[last - last % 3]:.1%}  lr" in output
    # of equal ones, the first one is saved; the last step is always saved
    top = max(measured.values())
    step = last if measured[last] == top else min(step for step, value in measured.items() if value == top)
    assert best(folder / "runs" / "tuned" / "retrain" / "checkpoints").name == f"step-{step:08d}"


def test_a_run_that_resumes_another_one_finds_its_own_best_checkpoint(done: tuple[Path, dict[str, str]]) -> None:
    """A high learning rate destroys its network: no accuracy reaches that of the other run, which is elsewhere."""
    folder, measured = done[0], accuracies(done[0], "continued")
    other = {step: value for step, value in accuracies(folder, "tuned").items() if step <= 20}
    assert list(measured) == [21, 22] and max(measured.values()) < max(other.values())
    assert "resuming at step 20 of 22 from" in done[1]["continued"]
    step = 21 if measured[21] > measured[22] else 22
    assert best(folder / "runs" / "continued" / "retrain" / "checkpoints").name == f"step-{step:08d}"


def test_measuring_does_not_change_the_training(done: tuple[Path, dict[str, str]]) -> None:
    assert not accuracies(done[0], "unmeasured") and losses(done[0], "unmeasured") == losses(done[0], "tuned")
    tuned, other = weights(done[0], "tuned"), weights(done[0], "unmeasured")
    assert all(torch.equal(value, other[name]) for name, value in tuned.items())


@pytest.mark.parametrize("zero", ["zero1", "zero2", "zero3"])
def test_two_ranks_equal_one(done: tuple[Path, dict[str, str]], zero: str) -> None:
    folder, name = done[0], f"two-{zero}"
    run_stage("retrain", words(folder, name, "retrain.freeze=1", f"engine.zero={zero}"), launcher="torchrun")
    one, two = losses(folder, "tuned"), losses(folder, name)
    assert len(one) == len(two) >= 20
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 2e-5
    expected, found = accuracies(folder, "tuned"), accuracies(folder, name)
    assert found.keys() == expected.keys() == {3, 6, 9, 12, 15, 18, 21, 22}
    for step, accuracy in found.items():
        assert abs(accuracy - expected[step]) < 1.5 / 33  # rounding may change an image
    test_frozen_weights_are_bitwise_unchanged((folder, {name: done[1]["tuned"]}), name, "1")
    if zero == "zero3":
        _check_resumed(folder, name, zero)


def _check_resumed(folder: Path, name: str, zero: str) -> None:
    """Resume at step 10 and compare everything with the uninterrupted run."""
    run = folder / "runs" / f"{name}-cut"
    shutil.copytree(folder / "runs" / name, run)
    for path in (run / "retrain" / "checkpoints").iterdir():
        if path.name != "step-00000010":
            shutil.rmtree(path)
    shutil.rmtree(run / "retrain" / "model")
    args = words(folder, run.name, "retrain.freeze=1", f"engine.zero={zero}")
    output = run_stage("retrain", args, launcher="torchrun")
    assert "resuming at step 10" in output
    expected, got = weights(folder, name), weights(folder, run.name)
    assert all(torch.equal(value, got[key]) for key, value in expected.items())
    assert losses(folder, run.name) == losses(folder, name)
    assert accuracies(folder, run.name) == accuracies(folder, name)
