"""A start records and prints its changes of settings.

Reference: settings written by hand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from vitas_ds.config import Config
from vitas_ds.errors import UserError
from vitas_ds.run.compatibility import differences
from vitas_ds.run.start import open_run


def make(root: Path, **sections: dict[str, object]) -> Config:
    return Config.model_validate({"run": {"name": "a", "dir": str(root)}} | sections)


def test_changes_are_printed_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["vitas", "search", "r", "search.top_k=3", "--replay=a.b=c", "data.val=/v"])
    open_run(make(tmp_path), True, stage="train-supernet")
    assert capsys.readouterr().out == ""
    run = open_run(make(tmp_path, search={"top_k": 3}, data={"val": "/v"}), True, stage="search")
    assert capsys.readouterr().out == (
        f'search: settings changed since the last start of {run.path}: data.val "" -> /v, search.top_k 5 -> 3\n'
    )
    first, second = json.loads(run.manifest.read_text())["starts"]
    assert first["changes"] == {} and second["changes"] == {"data.val": ["", "/v"], "search.top_k": [5, 3]}
    assert second["overrides"] == ["search.top_k=3", "data.val=/v"]
    open_run(make(tmp_path, search={"top_k": 4}), False, stage="search")
    assert capsys.readouterr().out == ""


def test_many_changes_fit_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_run(make(tmp_path), True)
    search = {"top_k": 1, "images": 2, "population": 3, "generations": 4, "crossover_prob": 0.5, "mutation_eta": 6}
    open_run(make(tmp_path, search=search | {"racing": 0.5, "surrogate": 0.5}), True, stage="search")
    line = capsys.readouterr().out
    assert line.count("->") == 6 and line.endswith(", and 2 more\n")


def test_a_path_without_room_for_files(tmp_path: Path) -> None:
    config = make(tmp_path / "/".join(["a" * 250] * 15))
    with pytest.raises(UserError, match=r"is too long for the files in it \(\d+ bytes, at most 3800\)"):
        open_run(config, True)
    assert not list(tmp_path.iterdir())


def test_the_place_of_a_run_is_no_difference(tmp_path: Path) -> None:
    other = make(tmp_path, run={"name": "b", "dir": "x", "seed": 1})
    assert differences(make(tmp_path), other) == {"run.seed": (0, 1)}


def test_the_validation_images_may_change(tmp_path: Path) -> None:
    """``evaluate`` compares them with those of its last result."""
    run = open_run(make(tmp_path), True)
    run.supernet.path.mkdir()
    run.supernet_weights.touch()
    assert open_run(make(tmp_path, data={"val": "/other"}), True, stage="evaluate").path == run.path
