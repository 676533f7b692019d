"""A command accepts the folder of a run instead of a recipe.

Reference: configurations of recipes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vitas_ds.__main__ import main
from vitas_ds.config.absolute import with_absolute_paths
from vitas_ds.errors import UserError
from vitas_ds.recipe import load
from vitas_ds.run.compatibility import leaves
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


def test_a_copy_whose_name_no_run_can_have(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = runs / "a copy"
    shutil.copytree(runs / "a", copy)
    assert main(["config", "runs/a copy"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vitas config: runs/a copy: the run is named after its folder; run.name: must have only ")
    assert line.endswith("(given: 'a copy'); rename the folder")
    assert load("runs/a copy", ["run.name=b"]).run.name == "b"
    with pytest.raises(UserError, match=r"^run\.name=c d: run\.name: must have only"):
        load("runs/a copy", ["run.name=c d"])


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


def test_settings_that_are_cut_off_are_not_read(runs: Path) -> None:
    """At every line, as an interrupted copy leaves them: the settings that are missing would have their defaults."""
    open_run(load("quickstart", ["run.name=a"]), True)
    whole = (runs / "a" / "config.yaml").read_text()
    before = load("runs/a", [])
    (runs / "a" / "config.yaml").write_text(whole.rstrip())  # an editor may remove the last end of line
    assert load("runs/a", []) == before
    for i in range(whole.count("\n")):
        (runs / "a" / "config.yaml").write_text("".join(whole.splitlines(keepends=True)[:i]))
        with pytest.raises(UserError, match=r"runs/a/config\.yaml: (cut off, the last line is missing|empty); copy"):
            load("runs/a", [])


def test_a_run_of_version_0_1_is_one_line(runs: Path) -> None:
    (runs / "a" / "config.yaml").write_text("mixing: {}\nengine: {checkpoint_activations: true}\n")
    with pytest.raises(UserError, match=r"runs/a/config\.yaml: written by version 0\.1"):
        load("runs/a", [])


def test_paths_of_a_run_do_not_depend_on_the_folder_of_its_start(
    runs: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every field of a file is absolute in ``config.yaml``; names of networks and search results stay as written."""
    given = {
        "data.train": "t", "data.val": "v", "data.exclude": "e", "engine.zero": "z.json", "supernet.teacher.model": "m",
        "supernet.teacher.weights": "w", "supernet.resume_from": "r", "retrain.teacher.model": "n",
        "retrain.teacher.weights": "x", "retrain.init": "i", "retrain.spec": "s.json", "search.latency_table": "l",
        "search.reuse": "u", "search.checkpoint": "c", "evaluate.model": "o", "export.model": "p",
    }  # fmt: skip
    words = [f"{name}={path}" for name, path in given.items()]
    open_run(load("quickstart", ["run.name=b", *words, "retrain.spec=runs/a:search:macs<1G"]), True)
    open_run(load("quickstart", ["run.name=c", *words]), True)
    monkeypatch.chdir(tmp_path_factory.mktemp("other"))
    for name, spec in (("b", "runs/a:search:macs<1G"), ("c", "s.json")):
        found = dict(leaves(load(str(runs / name), []).model_dump()))
        for field, path in (given | {"retrain.spec": spec}).items():
            assert found[field] == f"{runs.parent}/{path}", field


@pytest.mark.parametrize(
    "word",
    [
        "supernet.teacher.model=timm:resnet50.a1_in1k", "retrain.teacher.model=hf://user/name",
        "retrain.init=hf://user/name@v1", "retrain.init=supernet", "retrain.init=scratch", "retrain.spec=deit-s",
        "retrain.spec=search:pareto[0,2]", "engine.zero=zero2", "evaluate.model=retrain", "export.model=hf:/user/name",
        "evaluate.model=deit-s", "supernet.teacher.model=init", "retrain.teacher.model=init", "supernet.init=timm:vit",
    ],
)  # fmt: skip
def test_names_of_networks_stay_names(runs: Path, word: str) -> None:
    config = load("quickstart", [word])
    assert with_absolute_paths(config).model_dump() == config.model_dump() | {
        "data": with_absolute_paths(config).model_dump()["data"]
    }


def test_a_model_folder_may_have_the_name_of_a_published_network(runs: Path) -> None:
    (runs.parent / "deit-s").mkdir()
    config = with_absolute_paths(load("quickstart", ["export.model=deit-s", "retrain.spec=deit-s"]))
    assert (config.export.model, config.retrain.spec) == (f"{runs.parent}/deit-s", "deit-s")
