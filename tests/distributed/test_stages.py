"""All stages under the deepspeed launcher with two ranks on real images, and the files of the run.

References: plain torch on the same batches, other launchers and rank counts, and the images and files themselves.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch

import vitas_ds
from tests.helpers.digits import write_digits
from tests.helpers.launching import ROOT, run_commands, run_stage
from tests.helpers.toy_supernet import TensorAdamW
from vitas_ds import config
from vitas_ds.arch import genome
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import read_spec, spec_from_dict
from vitas_ds.data.loader import eval_batches, train_batches
from vitas_ds.data.mixing import mix
from vitas_ds.data.sources import hold_out, read_folder
from vitas_ds.distributed.comm import Ranks
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.recipe import load
from vitas_ds.training.sampling import draw, fit_identity_prob

TINY = ROOT / "tests" / "fixtures" / "tiny.yaml"
STAGES = ("train-supernet", "search", "retrain", "evaluate", "export")


def words_of(folder: Path, *overrides: str) -> list[str]:
    data = [f"data.train={folder}/digits/train", f"data.val={folder}/digits/val"]
    return [str(TINY), f"run.dir={folder}/runs", *data, *overrides]


def stage(name: str, folder: Path, *overrides: str, launcher: str = "deepspeed", ranks: int = 2) -> str:
    """Run a stage of the test recipe, which must succeed; return its output."""
    return run_stage(name, words_of(folder, *overrides), launcher, ranks)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and a run in which all stages have finished."""
    folder = tmp_path_factory.mktemp("main")
    write_digits(folder / "digits")
    for name in STAGES:
        stage(name, folder)
    return folder


def test_summary_and_ledger(done: Path) -> None:
    run = done / "runs" / "tiny"
    summary = json.loads((run / "summary.json").read_text())
    assert set(STAGES) <= set(summary)
    assert summary["train-supernet"]["steps"] == 2 * ((240 - 80) // 16)
    assert summary["retrain"]["steps"] == 2 * (240 // 16)  # including the search images
    assert summary["evaluate"]["images"] == 100
    assert summary["retrain"]["top1"] == summary["evaluate"]["top1"] <= summary["evaluate"]["top5"]
    lines = [json.loads(line) for line in (run / "search" / "ledger.jsonl").read_text().splitlines()]
    specs = [json.dumps(line["spec"]) for line in lines]
    assert len(specs) == len(set(specs)) == 12  # no candidate is scored twice
    for line in lines:
        spec = spec_from_dict(line["spec"])
        assert 1.5e5 <= line["macs"] == spec_macs(spec) <= 4.0e5
        assert line["generation"] in (1, 2) and 0 <= line["score"] <= 1
    best = json.loads((run / "search" / "best.json").read_text())
    assert best["score"] == summary["search"]["best"]["score"] and best["images"] == 80
    assert read_spec(run / "retrain" / "spec.json") == spec_from_dict(best["spec"])


def test_pictures_of_the_input_images(done: Path) -> None:
    for stage in ("supernet", "retrain"):
        assert (done / "runs" / "tiny" / stage / "images.png").read_bytes().startswith(b"\x89PNG")


def test_metrics_have_every_step_once(done: Path) -> None:
    lines = [json.loads(line) for line in (done / "runs" / "tiny" / "metrics.jsonl").read_text().splitlines()]
    for name in ("train-supernet", "retrain"):
        steps = [line["step"] for line in lines if line["stage"] == name]
        assert steps == sorted(set(steps)) and steps[:2] == [5, 10]
        last = [line for line in lines if line["stage"] == name][-1]
        assert {"loss", "lr", "images_per_s", "data_wait", "memory_gb"} <= set(last)


def test_search_images_are_not_trained_on(done: Path) -> None:
    run = done / "runs" / "tiny"
    held_out = set((run / "search_images.txt").read_text().splitlines())
    train, search = hold_out(read_folder(done / "digits" / "train"), 8, 3)
    assert held_out == set(search.paths) and len(held_out) == 80
    assert not held_out & set(train.paths)
    assert json.loads((run / "classes.json").read_text()) == {str(i): i for i in range(10)}


def test_exported_model_has_the_accuracy_of_evaluate(done: Path) -> None:
    export = done / "runs" / "tiny" / "export"
    assert {"model.safetensors", "spec.json", "README.md"} <= {path.name for path in export.iterdir()}
    model = vitas_ds.load(export)
    assert not model.training
    resolved = load(str(TINY), [])
    images = read_folder(done / "digits" / "val")
    hits = 0
    for batch in eval_batches(images, resolved.data, 28, 64, Ranks(0, 1, 0, torch.device("cpu"))):
        with torch.inference_mode():
            logits = model(batch.images)
        assert logits.shape == (len(batch.labels), 10)
        hits += int((logits.argmax(1) == batch.labels).sum())
    assert hits / 100 == json.loads((export.parent / "summary.json").read_text())["evaluate"]["top1"]
    assert f"{hits / 100:.2%}" in (export / "README.md").read_text()


def test_restarted_stages_change_no_file(done: Path) -> None:
    run = done / "runs" / "tiny"
    watched = [path for path in sorted(run.rglob("*")) if path.name in ("weights.safetensors", "ledger.jsonl")]
    watched += sorted((run / "retrain").rglob("*.safetensors"))
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in watched}
    assert len(before) >= 4
    for output in run_commands(*([name, *words_of(done)] for name in STAGES), limit=60):
        assert output.returncode == 0, output.stderr
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in watched} == before


def test_changed_images_are_named_and_moved_ones_are_the_same(done: Path, tmp_path: Path) -> None:
    """A copy of the run and its images: moved, without the training images, then with one other image in each set."""
    shutil.copytree(done / "runs", tmp_path / "runs")
    shutil.copytree(done / "digits", tmp_path / "digits")
    run = tmp_path / "runs" / "tiny"
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").unlink()
    for output in run_commands(*([name, *words_of(tmp_path)] for name in STAGES), limit=60):
        assert output.returncode == 0, output  # the search reads its scores again
        assert "done already" in output.stdout or output.args[0] == "search", output
    found = json.loads((run / "summary.json").read_text())
    assert found.keys() == summary.keys() and found["search"]["best"] == summary["search"]["best"]
    assert all(found[name] == summary[name] for name in STAGES if name != "search")
    (tmp_path / "digits" / "train").rename(tmp_path / "away")
    for output in run_commands(*([name, *words_of(tmp_path)] for name in STAGES if name != "search"), limit=60):
        assert output.returncode == 0 and "done already" in output.stdout, output
    (tmp_path / "away").rename(tmp_path / "digits" / "train")
    for name in ("train", "val"):
        first, *_, last = sorted((tmp_path / "digits" / name).rglob("*.jpg"))
        first.write_bytes(last.read_bytes())
    training, retraining, evaluation = run_commands(
        *([name, *words_of(tmp_path)] for name in ("train-supernet", "retrain", "evaluate")), limit=60
    )
    for output in (training, retraining):
        assert output.returncode == 2 and "train images: 1 file differs, e.g. 0/" in output.stderr, output
        assert "--redo" in output.stderr
    assert evaluation.returncode == 0 and "data.val: 1 file differs, e.g. 0/" in evaluation.stdout, evaluation
    old = json.loads((run / "old" / "1" / "summary.json").read_text())
    assert old["evaluate"] == summary["evaluate"]
    assert json.loads((run / "summary.json").read_text())["evaluate"]["images"] == 100


def test_training_equals_plain_torch_on_the_same_batches(done: Path) -> None:
    """Two ranks with ZeRO 1 and DALI equal one process with torch's AdamW, which skips weights without a gradient."""
    resolved = load(str(TINY), [f"data.train={done}/digits/train"])
    expected = plain_losses(resolved)
    recorded = _losses(done / "runs" / "tiny")
    windows = [expected[0:5], expected[5:10], expected[10:15], expected[15:20]]
    for window, loss in zip(windows, recorded, strict=True):
        assert loss == pytest.approx(sum(window) / 5, abs=2e-5)


def plain_losses(resolved: config.Config) -> list[float]:
    """Return the loss of each step of train-supernet, computed with plain torch."""
    cfg, seed = resolved.supernet, resolved.run.seed
    images, _ = hold_out(read_folder(resolved.data.train), resolved.data.search_per_class, seed)
    net = Supernet(resolved.space, "bilateral", 2)
    init_weights(net, seed)
    optimizer = TensorAdamW(net, config.Training(), lr=1.0)
    per_epoch = len(images) // 16
    prob = fit_identity_prob(resolved.space, *resolved.search.macs)
    ranks = [Ranks(rank, 2, 0, torch.device("cpu")) for rank in range(2)]
    loaders = [train_batches(images, resolved.data, cfg.augment, 28, 8, seed, 0, r) for r in ranks]
    losses = []
    for step in range(2 * per_epoch):
        net.zero_grad()
        spec, total = draw(resolved.space, seed, step, prob), 0.0
        for rank, loader in enumerate(loaders):
            batch = next(loader)
            x, targets = mix(batch.images, batch.labels, cfg.mixing, 10, seed, step, rank)
            loss = -(net(x, spec).sum(0).log_softmax(-1) * targets).sum(-1).mean() / 2
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        warmup = 0.5 * per_epoch
        shape = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (2 * per_epoch - warmup)))
        for group in optimizer.adamw.param_groups:
            group["lr"] = 5e-3 * (step / warmup if step < warmup else shape)
        optimizer.step()
        losses.append(total)
    return losses


@pytest.fixture(scope="module")
def one_rank(done: Path) -> dict[str, str]:
    """Outputs of three stages with one rank, run in one process."""
    starts = {
        "alone": ["train-supernet", *words_of(done)],
        "worse": ["train-supernet", *words_of(done, "supernet.lr=0.5", "supernet.save_every=2", "supernet.keep=1")],
        "lone": ["search", *words_of(done, f"search.checkpoint={done}/runs/tiny")],
    }
    results = run_commands(*([*start, f"run.name={name}"] for name, start in starts.items()))
    for result in results:
        assert result.returncode == 0, result.stdout + result.stderr
    return {name: result.stdout + result.stderr for name, result in zip(starts, results, strict=True)}


@pytest.mark.parametrize("launcher, ranks", [("alone", 1), ("torchrun", 2)])
def test_losses_are_equal_under_every_launcher(done: Path, one_rank: dict[str, str], launcher: str, ranks: int) -> None:
    """Batches and subnets are equal, also with one rank: losses differ only by the order of sums."""
    if launcher != "alone":
        stage("train-supernet", done, f"run.name={launcher}", launcher=launcher, ranks=ranks)
    ours, theirs = (_losses(done / "runs" / name) for name in (launcher, "tiny"))
    assert len(ours) == len(theirs) == 4
    # CutMix draws its boxes per rank: one rank with all images mixes differently from two.
    tolerance = 1e-5 if ranks == 2 else 0.1
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < tolerance


def test_checkpoint_of_the_lowest_loss_is_kept(done: Path, one_rank: dict[str, str]) -> None:
    """With the learning rate of the run "worse", the loss increases."""
    output = one_rank["worse"]
    (kept, last) = sorted((done / "runs" / "worse" / "supernet" / "checkpoints").iterdir())
    assert last.name == "step-00000020" and f"the mean loss was lower at step {int(kept.name[5:])}; {kept}" in output
    losses = [json.loads((path / "state.json").read_text())["loss"] for path in (kept, last)]
    assert losses[0] < losses[1] and losses[0] < 3


def test_search_with_one_rank_equals_search_with_two(done: Path, one_rank: dict[str, str]) -> None:
    ledgers = [done / "runs" / name / "search" / "ledger.jsonl" for name in ("tiny", "lone")]
    ours, theirs = (
        sorted((json.dumps(line["spec"]), line["images"], line["score"]) for line in map(json.loads, path.open()))
        for path in ledgers
    )
    assert ours == theirs


def _losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["stage"] == "train-supernet"]


def refused(folder: Path, *starts: list[str]) -> list[str]:
    """Return the one-line errors of stages that must fail, each given as its name and overrides."""
    errors = []
    for result in run_commands(*([name, *words_of(folder, *overrides)] for name, *overrides in starts)):
        assert result.returncode == 2, result.stdout + result.stderr
        assert "Traceback" not in result.stderr
        lines = [line for line in result.stderr.splitlines() if line.startswith("vitas ")]
        assert len(lines) == 1, result.stderr
        errors += lines
    return errors


def test_user_errors_are_one_line_and_overwrite_nothing(done: Path, tmp_path: Path) -> None:
    run = done / "runs" / "tiny"
    before = _times(run)
    weights, odd = run / "supernet" / "weights.safetensors", tmp_path / "odd.json"
    spec = json.loads((run / "retrain" / "spec.json").read_text())
    odd.write_text(json.dumps(spec | {"patch_size": 5}))
    folder, lr, embed, space, patch = refused(
        done,
        ["train-supernet", "run.name=new", "data.train=/nowhere"],  # a finished stage needs no images
        ["train-supernet", "supernet.lr=0.5"],
        ["search", "space.embed_dim=64"],
        ["search", "run.name=other", f"search.checkpoint={weights}", "space.mlp_dim=128"],
        ["retrain", "run.name=third", f"retrain.spec={odd}"],
    )
    assert "data.train" in folder
    assert "supernet.lr" in lr and "0.005" in lr and "0.5" in lr
    assert "space.embed_dim" in embed
    assert "another space" in space and "mlp" in space
    assert "patch_size" in patch
    assert _times(run) == before


def _times(run: Path) -> dict[Path, int]:
    """Return the modification time of each file except the lock."""
    files = (path for path in run.rglob("*") if path.is_file() and not path.name.startswith("writer-"))
    return {path: path.stat().st_mtime_ns for path in files}


def test_folders_with_different_or_empty_classes(done: Path, tmp_path: Path) -> None:
    for name in ("train", "val"):
        os.makedirs(tmp_path / "digits" / name)
        for label in range(10):
            os.symlink(done / "digits" / name / str(label), tmp_path / "digits" / name / str(label))
    os.rename(tmp_path / "digits" / "val" / "3", tmp_path / "digits" / "val" / "three")
    assert "different classes" in refused(tmp_path, ["train-supernet"])[0]
    os.rename(tmp_path / "digits" / "val" / "three", tmp_path / "digits" / "val" / "3")
    os.unlink(tmp_path / "digits" / "train" / "3")
    os.mkdir(tmp_path / "digits" / "train" / "3")
    assert "train/3" in refused(tmp_path, ["train-supernet", "run.name=empty"])[0]


def test_exported_spec_is_in_the_space(done: Path) -> None:
    space: SearchSpace = load(str(TINY), []).space
    spec = read_spec(done / "runs" / "tiny" / "export" / "spec.json")
    assert genome.decode(space, genome.encode(space, spec)).canonical() == spec


def test_redo_keeps_old_results(done: Path) -> None:
    """With other settings, each stage runs again with --redo, and old results are those of the first run."""
    first, run = done / "runs" / "tiny", done / "runs" / "redone"
    shutil.copytree(first, run)
    best = json.loads((first / "search" / "best.json").read_text())
    macs = "search.macs=[1.5e5, 2.7e5]" if best["macs"] > 2.75e5 else "search.macs=[2.8e5, 4.0e5]"
    words = words_of(done, "run.name=redone", macs)
    assert "or start search with --redo" in refused(done, ["search", "run.name=redone", macs])[0]
    results = run_commands(*([name, *words, "--redo"] for name in STAGES))
    assert [result.returncode for result in results] == [0] * 5, results
    supernet, search, retrain, evaluate, export = (result.stdout for result in results)
    assert "train-supernet: done already" in supernet and "search: search.macs [150000, 400000] -> " in supernet
    assert f"; running again, old results: {run}/old/1" in supernet
    assert "retrain: search:best is another network now; running again, old results (with those of evaluate" in retrain
    assert "done already" not in search + retrain + evaluate + export
    assert (run / "old" / "1" / "search" / "ledger.jsonl").read_bytes() == (first / "search/ledger.jsonl").read_bytes()
    weights, exported = Path("retrain/model/model.safetensors"), Path("export/model.safetensors")
    for file in (weights, exported):
        assert (run / "old" / "2" / file).read_bytes() == (first / file).read_bytes() != (run / file).read_bytes()
    assert (run / "supernet/weights.safetensors").read_bytes() == (first / "supernet/weights.safetensors").read_bytes()
    output = stage("retrain", done, "run.name=redone", macs, "retrain.lr=1e-3", "--redo", launcher="vitas")
    assert output.count("retrain: retrain.lr 0.005 -> 0.001; running again") == 1
    assert (run / "old" / "3" / weights).is_file() and (run / weights).is_file()
    assert set(json.loads((run / "summary.json").read_text())) == {"train-supernet", "search", "retrain"}
