"""A command accepts the folder of a run instead of a recipe.

Reference: configurations of recipes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from vitas_ds.__main__ import main
from vitas_ds.config.parse import with_absolute_paths
from vitas_ds.errors import UserError
from vitas_ds.recipe import load
from vitas_ds.run.start import open_run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with the run ``runs/a``, of the quickstart with two overrides."""
    monkeypatch.chdir(tmp_path)
    open_run(load("quickstart", ["run.name=a", "run.seed=4", "retrain.epochs=7"]), True)
    return tmp_path / "runs"


def test_a_run_remembers_its_overrides(runs: Path) -> None:
    expected = with_absolute_paths(load("quickstart", ["run.name=a", "run.seed=4", "retrain.epochs=7"]))
    assert load("runs/a", []) == load("runs/a/", []) == load("a", []) == expected
    changed = load("runs/a", ["retrain.epochs=9", "run.name=b"])
    assert (changed.run.name, changed.run.seed, changed.retrain.epochs) == ("b", 4, 9)
    assert load("a", ["run.dir=runs"]).run.seed == 4


def test_the_place_of_the_folder_counts(runs: Path) -> None:
    (runs / "a").rename(runs.parent / "moved")
    moved = load("./moved", [])
    assert (moved.run.dir, moved.run.name, moved.run.seed) == (".", "moved", 4)


def test_a_recipe_comes_before_a_run_of_the_same_name(runs: Path) -> None:
    open_run(load("quickstart", ["run.seed=9"]), True)
    assert load("quickstart", []).run.seed == 0
    assert load("runs/quickstart", []).run.seed == 9


def test_a_folder_without_a_run_is_one_line(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "empty").mkdir()
    for words in (["config", "runs/empty"], ["search", "runs/empty"], ["report", "runs/empty"]):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"vitas {words[0]}: runs/empty: not a run (there is no config.yaml in it)")
    assert main(["config", "runs/none"]) == 2
    assert "no such recipe or run" in capsys.readouterr().err


def test_a_run_of_version_0_1_is_one_line(runs: Path) -> None:
    (runs / "a" / "config.yaml").write_text("mixing: {}\nengine: {checkpoint_activations: true}\n")
    with pytest.raises(UserError, match=r"runs/a/config\.yaml: written by version 0\.1"):
        load("runs/a", [])
