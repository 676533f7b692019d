"""Run folders: files of a start, recipes that may continue a run, and paths.

Reference: files and configurations written by hand.
"""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from tests.helpers.paths import ROOT
from vitas_ds.config import Config, dump
from vitas_ds.errors import UserError
from vitas_ds.run.files import write_json
from vitas_ds.run.manifest import git_commit
from vitas_ds.run.run_dir import (
    RunDir,
    TrainingDir,
    complete_summary,
    read_config,
    read_summary,
    trains_older_network,
    update_summary,
    write_result,
)
from vitas_ds.run.start import open_run


def make(root, **sections) -> Config:
    sections.setdefault("run", {})
    return Config.model_validate(sections | {"run": {"name": "a", "dir": str(root)} | sections["run"]})


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_start_writes_config_and_manifest(tmp_path):
    config = make(tmp_path, supernet={"lr": 2e-3})
    run = open_run(config, True, stage="train-supernet", world_size=2)
    assert run.path == tmp_path / "a"
    assert Config.model_validate(yaml.safe_load(run.config.read_text())) == config
    open_run(config, True, stage="search")
    manifest = json.loads(run.manifest.read_text())
    assert [s["stage"] for s in manifest["starts"]] == ["train-supernet", "search"]
    first = manifest["starts"][0]
    assert first["world_size"] == 2
    assert first["versions"]["torch"] and first["versions"]["deepspeed"] and first["versions"]["python"]
    assert sorted(p.name for p in run.path.iterdir()) == ["config.yaml", "manifest.json", "writer-1.json"]


def test_other_ranks_write_nothing(tmp_path):
    run = open_run(make(tmp_path), False)
    assert not run.path.exists()


def test_git_commit():
    root = ROOT
    head = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        assert git_commit() is None
    else:
        assert git_commit().removesuffix("+changes") == head.stdout.strip()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"space": {"embed_dim": 192}}, "space.embed_dim"),
        ({"run": {"seed": 1}}, "run.seed"),
        ({"data": {"mean": [0.5, 0.5, 0.5]}}, "data.mean"),
    ],
)
def test_a_different_recipe_gives_one_error_line(tmp_path, change, field):
    run = open_run(make(tmp_path), True)
    open_run(make(tmp_path, **change), True)  # without results
    open_run(make(tmp_path), True)
    (run.path / "search").mkdir()
    run.ledger.touch()
    before = snapshot(run.path)
    with pytest.raises(UserError) as error:
        open_run(make(tmp_path, **change), True)
    text = str(error.value)
    assert field in text and "run.name" in text and "start search with --redo" in text and "\n" not in text
    assert snapshot(run.path) == before


def test_the_folder_of_the_images_may_change(tmp_path):
    """The stages compare the images."""
    run = open_run(make(tmp_path, data={"train": "/images/train"}), True)
    (run.path / "search").mkdir()
    run.ledger.touch()
    open_run(make(tmp_path, data={"train": "/elsewhere/train"}), True)
    assert read_config(run).data.train == "/elsewhere/train"


def test_two_paths_of_the_same_folder_are_equal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = open_run(make(tmp_path, search={"checkpoint": "runs/a"}), True)
    (run.path / "search").mkdir()
    run.ledger.touch()
    open_run(make(tmp_path, search={"checkpoint": f"{tmp_path}/runs/a"}), True)
    with pytest.raises(UserError, match=r"search\.checkpoint"):
        open_run(make(tmp_path, search={"checkpoint": f"{tmp_path}/runs/b"}), True)


def test_the_error_names_both_values(tmp_path):
    run = open_run(make(tmp_path), True)
    run.supernet.path.mkdir()
    run.supernet_weights.touch()
    with pytest.raises(UserError, match=r"run.seed=0, this one has 7"):
        open_run(make(tmp_path, run={"seed": 7}), True)


@pytest.mark.parametrize(
    ("file", "change", "field"),
    [
        ("supernet/checkpoints/10/shard", {"supernet": {"lr": 1e-4}}, "supernet.lr"),
        ("supernet/weights.safetensors", {"supernet": {"augment": {"hflip": 0.0}}}, "supernet.augment.hflip"),
        ("supernet/checkpoints/10/shard", {"engine": {"precision": "fp32"}}, "engine.precision"),
        ("retrain/checkpoints/10/shard", {"retrain": {"mixing": {"mixup": 0.8}}}, "retrain.mixing.mixup"),
        ("search/ledger.jsonl", {"search": {"macs": [1e6, 2e6]}}, "search.macs"),
    ],
)
def test_settings_of_a_stage_are_free_until_it_has_results(tmp_path, file, change, field):
    run = open_run(make(tmp_path), True)
    open_run(make(tmp_path, **change), True)  # nothing trained yet
    open_run(make(tmp_path), True)
    (run.path / file).parent.mkdir(parents=True)
    (run.path / file).touch()
    open_run(make(tmp_path), True)
    with pytest.raises(UserError, match=field):
        open_run(make(tmp_path, **change), True)


def test_free_fields_may_always_change(tmp_path):
    run = open_run(make(tmp_path), True)
    for file in ("supernet/checkpoints/1/x", "retrain/checkpoints/1/x", "search/ledger.jsonl"):
        (run.path / file).parent.mkdir(parents=True)
        (run.path / file).touch()
    free = {
        "run": {"device": "cpu", "timeout": 9},
        "data": {"threads": 3, "eval_batch_size": 8},
        "engine": {"compile": True},
        "supernet": {"log_every": 1, "save_every": 5, "keep": 9, "grad_accum_steps": 2},
        "search": {"generations": 99},
        "retrain": {"log_every": 1, "save_minutes": 2},
        "evaluate": {"model": "/elsewhere"},
        "tracking": {"wandb": "disabled"},
    }
    config = make(tmp_path, **free)
    open_run(config, True)
    assert run.config.read_text() == dump(config)


def test_a_folder_without_a_run(tmp_path):
    (tmp_path / "a" / "supernet").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no config\.yaml"):
        open_run(make(tmp_path), True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.yaml").write_text("space: {no_such: 1}")
    with pytest.raises(UserError, match=r"space\.no_such"):
        open_run(make(tmp_path, run={"name": "b"}), True)


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "a").write_text("a file")
    with pytest.raises(UserError, match=r"run\.dir"):
        open_run(make(tmp_path), True)


def test_summary_merges(tmp_path):
    run = open_run(make(tmp_path), True)
    assert read_summary(run) == {}
    update_summary(run, "retrain", {"top1": np.float32(0.5), "loss": float("nan")})
    update_summary(run, "evaluate", {"top1": 0.25, "images": np.int64(10)})
    update_summary(run, "retrain", {"seconds": 3})
    expected = {
        "retrain": {"top1": 0.5, "loss": None, "seconds": 3},
        "evaluate": {"top1": 0.25, "images": 10},
    }
    assert read_summary(run) == expected
    assert not list(run.path.glob(".*"))
    run.summary.write_text("{")
    with pytest.raises(UserError, match=r"summary\.json"):
        read_summary(run)


def test_summary_has_every_finished_stage_after_a_kill(tmp_path):
    """A kill before ``summary.json`` is written; a stage without its product has not ended."""
    run = open_run(make(tmp_path), True)
    write_results(run, tmp_path)
    best = {"spec": {"depth": 3}, "macs": 5, "score": 0.5, "stderr": 0.1}
    write_json(run.best, best | {"seconds": 1.0, "rank": 1, "top": [], "searched_on": 80})
    expected = {"train-supernet": {"steps": 20}, "retrain": {"steps": 30, "loss": 1.5}, "search": {"best": best}}
    assert read_summary(run) == expected
    update_summary(run, "search", {"best": best, "scored": 12})
    expected["search"]["scored"] = 12
    evaluated = {"model": "retrain", "top1": 0.25, "top5": 0.5}
    write_result(run, "evaluate", evaluated | {"sha256": "of another run"})
    assert read_summary(run) == expected
    evaluated["sha256"] = "of the weights"
    write_result(run, "evaluate", evaluated)
    expected["evaluate"] = evaluated
    expected["retrain"] |= {"top1": 0.25, "top5": 0.5}
    assert read_summary(run) == expected
    card = tmp_path / "README.md"
    card.write_text("new")
    write_result(run, "export", {"bytes": 9}, card)
    for old in ("", "old"):  # killed before the folder got its name
        if old:
            run.export.mkdir()
            (run.export / "README.md").write_text(old)
        assert read_summary(run) == expected
    card.rename(run.export / "README.md")
    run.summary.unlink()
    expected["export"] = {"bytes": 9}
    del expected["search"]["scored"]  # the search itself finds its scores in the ledger
    open_run(make(tmp_path), True)
    assert json.loads(run.summary.read_text()) == expected


def write_results(run: RunDir, folder: Path) -> None:
    """Write the numbers and products of two stages."""
    weights, config = folder / ".weights.safetensors.tmp", folder / "config.json"
    save_file({"w": torch.ones(3)}, weights, {"sha256": "of the tensors"})
    config.write_text('{"sha256": {"model.safetensors": "of the weights"}}')
    write_result(run, "train-supernet", {"steps": 20}, weights)
    write_result(run, "retrain", {"steps": 30, "loss": 1.5}, config)
    assert read_summary(run) == {}
    for path, made in ((run.supernet_weights, weights), (run.retrain_model / "config.json", config)):
        path.parent.mkdir(parents=True, exist_ok=True)
        made.rename(path)


@pytest.mark.parametrize("stage", ["train-supernet", "retrain"])
def test_numbers_count_only_as_written_and_with_their_product(tmp_path, stage):
    run, other = open_run(make(tmp_path / "a"), True), open_run(make(tmp_path / "b"), True)
    write_results(run, tmp_path)
    complete_summary(run)
    expected = read_summary(run)
    record = run.supernet.result if stage == "train-supernet" else run.retrain.result
    written = record.read_text()
    record.write_text(written.replace("0,", "1,"))
    assert record.read_text() != written
    assert read_summary(run) == expected
    made = tmp_path / "made"
    made.write_text("another network")
    write_result(other, stage, {"steps": 9, "loss": 2.5}, made)
    shutil.copy(other.path / record.relative_to(run.path), record)
    assert read_summary(run) == expected


def test_a_later_search_may_find_another_network(tmp_path):
    run = open_run(make(tmp_path), True)
    spec = {"patch_size": 4, "embed_dim": 64, "layers": [{"num_heads": 2}], "image_size": 32}
    assert not trains_older_network(run)
    write_json(run.retrain_spec, spec | {"image_size": 224})  # retrained for another image size
    write_json(run.best, {"spec": spec})
    assert not trains_older_network(run)
    write_json(run.best, {"spec": spec | {"embed_dim": 96}})
    assert trains_older_network(run)
    run = open_run(make(tmp_path, retrain={"spec": "search:best[2]"}), True)
    assert not trains_older_network(run)


def paths_of(owner: RunDir | TrainingDir) -> list[Path]:
    """Every path in a RunDir or TrainingDir."""
    names = [name for name, value in vars(type(owner)).items() if isinstance(value, property) and name != "name"]
    values = [getattr(owner, name) for name in names]
    nested = [[value] if isinstance(value, Path) else [value.path, *paths_of(value)] for value in values]
    return [path for paths in nested for path in paths]


def test_paths_are_in_the_run_folder():
    run = RunDir(Path("runs/x"))
    paths = paths_of(run)
    assert len(paths) > 30 and len(set(paths)) == len(paths)
    assert [path for path in paths if not path.is_relative_to("runs/x")] == [Path("runs/latency.jsonl")]
    assert run.comparison(RunDir(Path("runs/y"))) == Path("runs/x/report/x_against_y.html")


def test_a_run_of_version_0_1(tmp_path):
    text = yaml.safe_dump({"run": {"name": "a"}, "mixing": {}, "engine": {"checkpoint_activations": True}})
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text(text)
    for use in (lambda: open_run(make(tmp_path), True), lambda: read_config(RunDir(tmp_path / "a"))):
        with pytest.raises(UserError, match=r"config.yaml: written by version 0.1; .* cannot be resumed") as error:
            use()
        assert "\n" not in str(error.value)
    (tmp_path / "a" / "config.yaml").write_text("engine: {no_such: 1}")
    with pytest.raises(UserError, match=r"another version: engine\.no_such: unknown key"):
        read_config(RunDir(tmp_path / "a"))
