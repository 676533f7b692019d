"""The table of runs, and the state of one.

Reference: files written by hand.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from vitas_ds.__main__ import main
from vitas_ds.recipe import load
from vitas_ds.run.overview import Overview
from vitas_ds.run.start import open_run
from vitas_ds.run.summary import update_summary
from vitas_ds.run.tracking import open_tracker
from vitas_ds.tools.status import progress


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with three runs, one of them damaged."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        run = open_run(load("quickstart", [f"run.name={name}"]), True, stage="search")
    update_summary(run, "search", {"best": {"score": 0.5}})
    (tmp_path / "runs" / "b" / "manifest.json").write_text("{")
    (tmp_path / "runs" / "no_run").mkdir()
    return tmp_path / "runs"


def test_table(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert list(rows) == ["run", "a", "b", "c"]
    assert rows["a"].split()[1] == "search" and rows["a"].endswith("stopped")
    assert "manifest.json" in rows["b"] and "50.0%" in rows["c"] and rows["c"].endswith("done")
    assert main(["runs", "runs/a"]) == 0 and main(["runs", "nowhere"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "runs/a: no runs\n" and "nowhere: no such folder" in printed.err


@pytest.mark.parametrize("word", ["runs/a", "a"])
def test_status(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", word, "--follow"]) == 0  # not running: there is nothing to follow
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("runs/a: ") and lines[-1] == "to resume: vitas search runs/a"


def test_names_and_texts_of_files_cannot_act_on_terminal_or_shell(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "$(id)\x1b[31m\n"
    (runs / "a").rename(runs / name)
    assert main(["status", f"runs/{name}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "to resume: vitas search 'runs/$(id)\\x1b[31m\\n'"
    assert main(["runs"]) == 0
    rows = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert sorted(rows) == ["$(id)\\x1b[31m\\n", "b", "c", "run"]


def test_status_has_the_accuracy_on_held_out_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load("quickstart", ["run.name=d", "tracking.wandb=disabled"])
    run = open_run(config, True, stage="retrain")
    with open_tracker(config, run, "retrain", True, total=20, every=1e9) as tracker:
        tracker.log(10, {"loss": 2.0})
        tracker.evaluation(10, {"top1": 0.5})
    assert main(["status", "d"]) == 0
    assert "top-1 on held-out images after step 10: 50.00%" in capsys.readouterr().out


def test_remaining_time_of_stage_and_run(runs: Path) -> None:
    last = {"loss": 1.5, "step_seconds": 2.0}
    found = Overview("search", 30, 100, "running", "", 140.0, 740.0, None, None, False, 0, last)
    assert progress(found) == "search  running  30/100  loss 1.5000  ETA 2:20  all stages about 12:20"
