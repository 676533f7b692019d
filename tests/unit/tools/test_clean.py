"""Clean removes only what no later stage needs.

Reference: the files of a run, listed by hand.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from vitas_ds.__main__ import main
from vitas_ds.config import Config, Search, dump
from vitas_ds.run import lock
from vitas_ds.run.files import file_digest, write_json, write_text
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.start import open_run

ENDED = {"generations": Search().generations, "top_k": Search().top_k}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run with a finished supernet, an unfinished retraining, and files of the user."""
    run = open_run(Config.model_validate({"run": {"name": "a", "dir": str(tmp_path)}}), True, stage="retrain")
    for folder, steps in ((run.supernet, {7: 0.5, 10: 0.7}), (run.retrain, {3: 1.0})):
        for step, loss in steps.items():
            checkpoint = folder.checkpoints / f"step-{step:08d}"
            write_json(state := checkpoint / "state.json", {"loss": loss})
            files = {state.name: [state.stat().st_size, file_digest(state)]}
            write_json(checkpoint / "manifest.json", {"format": 1, "files": files})
    run.supernet_weights.touch()
    for name in (
        "notes.txt",
        "supernet/checkpoints/mine.txt",
        "supernet/checkpoints/step-old/x",
        "search/images-x.txt",
    ):
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).touch()
    write_json(run.best, {})
    write_json(run.summary, {"search": ENDED})
    for name in ("u8", "sha256"):
        (run.search / f"images-0123-256-224.{name}").touch()
    (run.finalist_states / "net").mkdir(parents=True)
    lock.release()
    return run


def test_only_a_finished_training_does_not_need_its_divergence(run: RunDir) -> None:
    """Without its weights, ``retrain --replay`` could not compute the diverged step again."""
    for stage in (run.supernet, run.retrain):
        write_json(stage.path / "divergence" / "step-00000003" / "manifest.json", {})
    assert main(["clean", str(run.path), "--yes"]) == 0
    assert (run.retrain.path / "divergence" / "step-00000003" / "manifest.json").is_file()
    assert not (run.supernet.path / "divergence").exists()


def test_trainings_of_an_unfinished_search_stay(run: RunDir) -> None:
    """The earlier search had fewer finalists and no check; best.json is its result."""
    (run.check_states / "net").mkdir(parents=True)
    search = {"finalists": {"count": 4, "steps": 9}, "check": {"nets": 8, "steps": 9}, "macs": [1e9, 2e9]}
    config = Config.model_validate({"run": {"name": "a", "dir": str(run.path.parent)}, "search": search})
    write_text(run.config, dump(config))
    done = {"finalists": config.search.finalists.model_dump() | {"accuracy": 0.5}}
    done["check"] = {"nets": 8, "steps": 9, "tau": 0.5}
    without = [{name: value for name, value in (ENDED | done).items() if name != left} for left in done]
    other = [ENDED | done | change for change in ({"generations": 1}, {"budgets": [{"budget": "macs<=1G"}]})]
    for summary in [{}, ENDED, *without, *other]:
        write_json(run.summary, {"search": summary})
        assert main(["clean", str(run.path), "--yes"]) == 0
        assert run.finalist_states.exists() and run.check_states.exists(), summary
    write_json(run.summary, {"search": ENDED | done})
    assert main(["clean", str(run.path), "--yes"]) == 0
    assert not run.finalist_states.exists() and not run.check_states.exists()


def files(run: RunDir) -> set[str]:
    paths = (path.relative_to(run.path) for path in run.path.rglob("*"))
    return {str(path) for path in paths if not path.name.startswith("writer-")}


def test_keep_best(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(run)
    assert main(["clean", str(run.path), "--keep", "best", "--yes"]) == 0
    ten = "supernet/checkpoints/step-00000010"
    gone = {
        ten,
        f"{ten}/manifest.json",
        f"{ten}/state.json",
        "search/images-0123-256-224.u8",
        "search/images-0123-256-224.sha256",
    }
    assert before - files(run) == gone | {"search/finalists", "search/finalists/net"}
    assert str(run.path / ten) in capsys.readouterr().out
    assert main(["clean", str(run.path), "--yes"]) == 0
    assert not (run.supernet.checkpoints / "step-00000007").exists()
    assert (run.retrain.checkpoints / "step-00000003").exists()  # needed to resume
    assert {"notes.txt", "supernet/checkpoints/mine.txt", "supernet/checkpoints/step-old/x"} <= files(run)
    assert main(["clean", str(run.path)]) == 0
    assert capsys.readouterr().out.endswith("nothing to remove\n")


def test_files_behind_a_link_stay(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    """A linked folder belongs to another run, and so may a linked file."""
    other = run.path.with_name("other")
    run.supernet.path.rename(other)
    run.supernet.path.symlink_to("../other")
    (image,) = run.search.glob("*.u8")
    image.rename(other / image.name)
    image.symlink_to(other / image.name)
    before = set(other.rglob("*"))
    assert main(["clean", str(run.path), "--yes"]) == 0
    assert set(other.rglob("*")) == before and image.is_symlink()
    assert not run.finalist_states.exists()
    line = f"{run.path}: kept 3 paths behind links, such as {run.supernet.checkpoints / 'step-00000007'}: another run "
    assert capsys.readouterr().out.startswith(line)


def test_asks_first(run: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(run)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, removed in (("", False), ("n", False), ("y", True)):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        assert main(["clean", str(run.path)]) == 0
        assert (files(run) != before) == removed
    capsys.readouterr()


def test_end_of_input_is_no(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(run)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", Mock(side_effect=EOFError))
    assert main(["clean", str(run.path)]) == 0 and files(run) == before


@pytest.mark.parametrize("stdin", ["<&-", "</dev/null"])
def test_without_an_input(run: RunDir, stdin: str) -> None:
    command = shlex.join([sys.executable, "-m", "vitas_ds", "clean", str(run.path)])
    done = subprocess.run(f"{command} {stdin}", shell=True, capture_output=True, text=True, timeout=120)
    line = "vitas clean: cannot ask on this terminal; add --yes to remove the files\n"
    assert (done.returncode, done.stderr) == (2, line)


def test_without_a_terminal_or_a_run(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(run)
    assert main(["clean", str(run.path)]) == 2 and files(run) == before
    assert main(["clean", str(run.path.parent)]) == 2
    cannot, no_run = capsys.readouterr().err.splitlines()
    assert "add --yes" in cannot and "not a run" in no_run


def test_a_running_run(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(run.life / "rank-00000.json", {"host": "elsewhere", "pid": 1, "ended": None})
    assert main(["clean", str(run.path), "--yes"]) == 2
    assert "is running" in capsys.readouterr().err
