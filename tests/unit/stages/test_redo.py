"""Run a stage again whose results do not fit. Reference: the files before."""

from __future__ import annotations

import pytest

from tests.helpers import runs
from vitas_ds.__main__ import main
from vitas_ds.config import Config
from vitas_ds.errors import Stale
from vitas_ds.run import lock
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.start import find_run
from vitas_ds.stages.redo import redoing

config, run = runs.config, runs.run  # fixtures


def changed(config: Config, section: str, **values: object) -> Config:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


@pytest.fixture(autouse=True)
def _released():
    yield
    lock.release()


def files(run: RunDir) -> set[str]:
    """Return the files of a run, except those of the lock."""
    return {str(path.relative_to(run.path)) for path in run.path.rglob("*") if not path.name.startswith("writer-")}


def fine() -> None:
    """Find no problem."""


def test_results_stay_if_their_inputs_are_wrong(config, run: RunDir) -> None:
    """Of the whole command: a wrong folder of initial weights, of a teacher and of a supernet."""
    run.retrain_model.mkdir()
    run.retrain_weights.touch()
    before = files(run)
    for word in ("retrain.init=nosuch", "retrain.teacher.model=nosuch"):
        assert main(["retrain", str(run.path), word, "--redo"]) == 2
    assert main(["search", str(run.path), "search.checkpoint=nosuch", "--redo"]) == 2
    assert files(run) == before


def test_later_stages_are_moved_and_earlier_ones_refused(config, run: RunDir, capsys) -> None:
    run.retrain_model.mkdir()
    run.retrain_weights.touch()
    other = changed(changed(config, "search", macs=(1e6, 2e6), seed=7), "retrain", lr=0.5)
    calls = []
    with pytest.raises(Stale, match=r"belongs to a run with search\.macs=null, .* or start search with --redo, which"):
        redoing("retrain", lambda: find_run(other), fine)
    assert run.ledger.exists() and not (run.path / "old").exists()
    redoing("search", lambda: calls.append(find_run(other)), fine)
    assert len(calls) == 1 and not run.search.exists() and not run.retrain.path.exists()
    assert (run.path / "old/1/search/ledger.jsonl").exists() and (run.path / "old/2/retrain/model").exists()
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert first.startswith("search: search.macs null -> [1000000, 2000000]")
    assert first.endswith(f"; running again, old results: {run.path}/old/1") and "search.seed" in first
    assert second.startswith("retrain: retrain.lr 0.001 -> 0.5; running again, old results (with those of evaluate, ")
    redoing("search", lambda: calls.append(find_run(other)), fine)
    assert len(calls) == 2 and capsys.readouterr().out == ""


def test_no_endless_loop(config, run: RunDir) -> None:
    def fail() -> None:
        raise Stale(run.path, "search", "something", "a problem that moving does not solve")

    with pytest.raises(Stale, match="a problem"):
        redoing("search", fail, fine)
    assert not (run.path / "old" / "2").exists()
