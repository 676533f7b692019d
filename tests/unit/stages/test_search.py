"""When a finished search is done, and when new settings continue it."""

import pytest

from tests.helpers.paths import FIXTURES
from vitas_ds.recipe import load
from vitas_ds.run.files import write_json
from vitas_ds.run.run_dir import RunDir, update_summary
from vitas_ds.stages.search import _is_done

KEY = {"generations": 2, "top_k": 2}


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
    assert _is_done(config, run, KEY) is done
    table = load(str(FIXTURES / "tiny.yaml"), [f"search.latency_also={also}", "search.latency_table=a.jsonl"])
    assert _is_done(table, run, KEY)
