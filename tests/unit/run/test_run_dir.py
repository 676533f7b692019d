"""Run folders: files of a start, recipes that may continue a run, and paths.

Reference: files and configurations written by hand.
"""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.helpers.paths import ROOT
from vitas_ds.config import Config, dump
from vitas_ds.config.parse import framed
from vitas_ds.errors import Stale, UserError
from vitas_ds.run.manifest import git_commit
from vitas_ds.run.run_dir import RunDir, TrainingDir, read_config
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
        ("supernet/checkpoints/10/shard", {"search": {"macs": [1e6, 2e6]}}, "search.macs"),  # it samples within them
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


@pytest.mark.parametrize(
    ("settings", "fixed"),
    [
        ({"supernet": {"macs": [1e6, 3e6]}}, False),  # the supernet has a budget of its own
        ({"supernet": {"macs": [1e6, 3e6], "distribution": "budget"}}, True),
        ({"space": {"identity": False}}, False),  # sampled uniformly
    ],
)
def test_budgets_are_fixed_until_a_supernet_that_samples_within_them_is_trained(tmp_path, settings, fixed):
    run = open_run(make(tmp_path, **settings), True)
    (run.supernet.checkpoints / "10").mkdir(parents=True)
    other = make(tmp_path, **settings, search={"budgets": ["2G"]})
    if fixed:
        with pytest.raises(Stale, match=r"search\.budgets"):
            open_run(other, True)
        run.supernet_weights.touch()
    open_run(other, True)


def test_files_that_a_killed_stage_was_writing_are_removed(tmp_path):
    run = open_run(make(tmp_path), True)
    for name in (".weights.safetensors.7.tmp", "weights.safetensors"):
        run.supernet.path.mkdir(exist_ok=True)
        (run.supernet.path / name).touch()
    (run.supernet.path / ".model.tmp").mkdir()
    open_run(make(tmp_path), True, stage="search")
    assert len([*run.supernet.path.iterdir()]) == 3
    open_run(make(tmp_path), True, stage="train-supernet")
    assert {path.name for path in run.supernet.path.iterdir()} == {"weights.safetensors", ".model.tmp"}


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
    assert run.config.read_text() == framed(dump(config))


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
