"""When a finished search is done, and when new settings continue it."""

import pytest

from tests.helpers import runs
from tests.helpers.paths import FIXTURES
from vitas_ds.__main__ import main
from vitas_ds.recipe import load
from vitas_ds.run import lock
from vitas_ds.run.files import write_json
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.summary import update_summary
from vitas_ds.search.trials.finalists import configured
from vitas_ds.search.trials.store import Store
from vitas_ds.stages.redo import redoing
from vitas_ds.stages.search import _compare, _is_done

KEY = {"generations": 2, "top_k": 2}
FINALISTS = ["search.finalists.count=2", "search.finalists.steps=8"]
config, run = runs.config, runs.run  # fixtures


@pytest.mark.parametrize(
    ("latency", "also", "done"),
    [
        (None, [1], True),  # the search measured no latency
        ({"also": []}, [], True),
        ({}, [], True),
        ({"also": [1, 8]}, [8], True),
        ({"also": [1]}, [1, 8], False),
        ({}, [1], False),
    ],
)
def test_a_new_batch_size_continues_a_search(tmp_path, latency, also, done):
    run = RunDir(tmp_path / "run")
    write_json(run.best, {})
    update_summary(run, "search", KEY | ({} if latency is None else {"latency": latency}))
    config = load(str(FIXTURES / "tiny.yaml"), [f"search.latency_also={also}"])
    assert _is_done(config, run) is done
    table = load(str(FIXTURES / "tiny.yaml"), [f"search.latency_also={also}", "search.latency_table=a.jsonl"])
    assert _is_done(table, run)


def test_a_refused_start_keeps_the_settings_of_the_run(run, config, capsys):
    """With fewer generations; with finalists of other settings, if the search has not finished."""
    finalists = {"count": 2, "steps": 8, "keep": 0.5, "init": "scratch"}
    update_summary(run, "search", {"generations": 6, "top_k": config.search.top_k, "finalists": finalists})
    Store(run).open(configured(load(str(run.path), FINALISTS)))
    before = run.config.read_bytes()
    for words, expected in (
        (["search.generations=2"], "has searched 6 generations, this start has search.generations=2"),
        (["search.generations=7", "retrain.lr=0.5"], "the finalists were trained with retrain.lr=0.001 (now 0.5)"),
    ):
        assert main(["search", str(run.path), *FINALISTS, *words]) == 2
        assert expected in capsys.readouterr().err
    assert run.config.read_bytes() == before and not (run.path / "old").exists()


def test_a_finished_search_names_other_settings_of_its_finalists(run, config):
    Store(run).open(configured(load(str(run.path), FINALISTS)))
    other = load(str(run.path), [*FINALISTS, "retrain.lr=0.5"])
    expected = "; the finalists were trained with retrain.lr=0.001 (now 0.5): --redo searches again"
    assert _compare(other, run, done=True, redo=False) == expected
    redoing("search", lambda: _compare(other, run, done=True, redo=True), lambda: None)
    assert (run.path / "old/1/search/best.json").is_file() and not run.search.exists()
    lock.release()
