"""Move results of a run aside.

Reference: the files before, also after a kill at every operation on files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.helpers import runs
from tests.helpers.paths import ROOT
from vitas_ds.recipe import load
from vitas_ds.reports import run_page
from vitas_ds.run.aside import dependents, set_aside
from vitas_ds.run.files import write_json
from vitas_ds.run.metrics import read_metrics
from vitas_ds.run.run_dir import RunDir, read_config
from vitas_ds.run.summary import read_summary
from vitas_ds.search.results import select

config, run = runs.config, runs.run  # fixtures

KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from vitas_ds.run.aside import set_aside
from vitas_ds.run.run_dir import RunDir

run, copies = map(Path, sys.argv[1:])
status = left = 1

def kill(event, args):
    global left
    if event in ("open", "os.mkdir", "os.rename", "os.remove", "shutil.copyfile"):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

while status:
    shutil.copytree(run, copies / str(left))
    child = os.fork()
    if not child:
        sys.addaudithook(kill)
        set_aside(RunDir(copies / str(left)), ["search", "retrain", "evaluate", "export"])
        os._exit(0)
    status, left = os.waitpid(child, 0)[1], left + 1
    assert status in (0, signal.SIGKILL), status
"""


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fill(folder: RunDir) -> None:
    """Add files of trainings and of an export, which the fixture does not write."""
    for path in (
        folder.supernet_weights,
        folder.retrain_weights,
        folder.retrain.checkpoints / "step-00000600" / "state.json",
        folder.export_weights,
        folder.evaluation_images,
        folder.search_images,
        folder.tensorboard / "retrain" / "events",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    write_json(folder.evaluation, read_summary(folder)["evaluate"])


def test_moved_results_are_a_run(run: RunDir) -> None:
    fill(run)
    before, metrics, summary = files(run.path), read_metrics(run), read_summary(run)
    old = set_aside(run, dependents(run, "train-supernet"))
    assert old is not None and old.path == run.path / "old" / "1"
    assert dependents(run, "train-supernet") == ["train-supernet", "search"]
    moved = {name: data for name, data in before.items() if name.startswith(("supernet/", "search/"))}
    assert moved.items() <= files(old.path).items()
    assert not run.supernet.path.exists() and not run.search.exists() and run.retrain_weights.exists()
    assert read_summary(run) == {name: summary[name] for name in ("retrain", "evaluate", "export")}
    assert read_summary(old) == {name: summary[name] for name in ("train-supernet", "search")}
    assert read_metrics(old) == [row for row in metrics if row["stage"] in ("train-supernet", "search")]
    assert read_metrics(run) == metrics  # a start of the stage cuts its records
    assert read_config(old) == read_config(run) and load(str(old.path), []).run.name == "1"
    assert select(old, "search:best").to_dict() == json.loads(moved["search/best.json"])["spec"]
    assert "1" in run_page.render(old)
    again = set_aside(run, ["retrain"])
    assert again is not None and again.path == run.path / "old" / "2" and (again.tensorboard / "retrain").is_dir()
    assert set_aside(run, ["retrain"]) is None


def test_links_lead_to_the_same_folders(run: RunDir, tmp_path: Path) -> None:
    """Relative links: of a stage's folder, and inside of one to another folder and to the folder itself."""
    fill(run)
    disk = tmp_path / "disk"
    disk.mkdir()
    run.supernet.path.rename(disk / "supernet")
    run.supernet.path.symlink_to("../disk/supernet")
    run.retrain.checkpoints.rename(disk / "checkpoints")
    run.retrain.checkpoints.symlink_to("../../disk/checkpoints")
    (run.retrain.path / "latest").symlink_to("spec.json")
    old = set_aside(run, ["train-supernet", "retrain"])
    assert old is not None and not run.supernet.path.is_symlink() and not run.retrain.path.exists()
    assert old.supernet.path.resolve() == disk / "supernet" and old.supernet_weights.is_file()
    assert old.retrain.checkpoints.resolve() == disk / "checkpoints"
    assert os.readlink(old.retrain.path / "latest") == "spec.json"
    assert {path.name for path in old.path.rglob(".*")} == set()


def test_dependents(run: RunDir) -> None:
    assert dependents(run, "retrain") == ["retrain", "evaluate", "export"]
    text = run.config.read_text()
    run.config.write_text(text.replace("init: scratch", "init: supernet"))
    assert dependents(run, "train-supernet") == ["train-supernet", "search", "retrain", "evaluate", "export"]
    run.config.write_text(text.replace("  model: retrain", "  model: elsewhere", 1))
    assert dependents(run, "retrain") == ["retrain", "export"]
    run.config.write_text(text.replace("checkpoint: null", "checkpoint: runs/other"))
    assert dependents(run, "train-supernet") == ["train-supernet"]


def test_a_kill_at_any_moment_loses_nothing(run: RunDir, tmp_path: Path) -> None:
    """Each stage is whole, in the run or in ``old``; a later stage is never left without the earlier one."""
    fill(run)
    before = files(run.path)
    stages = {"search": "search/", "retrain": "retrain/", "evaluate": "evaluation.json", "export": "export/"}
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", KILLED, run.path, tmp_path / "copies"], check=True, env=environment)
    copies = sorted((tmp_path / "copies").iterdir(), key=lambda path: int(path.name))
    assert len(copies) > 15
    for copy in map(RunDir, copies):
        found = files(copy.path)
        there = []
        for stage, start in stages.items():
            own = {name: data for name, data in before.items() if name.startswith(start)}
            old = {f"old/1/{name}": data for name, data in own.items()}
            assert own.items() <= found.items() or old.items() <= found.items(), (copy.name, stage)
            there.append(own.items() <= found.items())
        assert there == sorted(there, reverse=True), (copy.name, there)
        assert before["supernet/weights.safetensors"] == found["supernet/weights.safetensors"]
        assert {"evaluation_images.png", "old/1/evaluation_images.png"} & found.keys()
        left = [stage for stage, is_there in zip(stages, there, strict=True) if is_there]
        assert set(read_summary(copy)) == {"train-supernet", *left}, copy.name
        set_aside(copy, stages)  # the next start completes it
        assert not any((copy.path / name).exists() for name in ("search", "retrain", "export"))
