"""Files of the finalists: order of the candidates, values that JSON does not have, damaged lines.

Reference: rows by hand.
"""

from __future__ import annotations

import math

import pytest

from vitas_ds.errors import UserError
from vitas_ds.run.run_dir import RunDir
from vitas_ds.search.trials.rows import curves_of, order_of, read_rows
from vitas_ds.search.trials.store import Outcome, Store


def row(candidate: int, rung: int, accuracy: float, loss: float | None = 1.0, macs: int = 10) -> dict:
    return {"candidate": candidate, "rung": rung, "accuracy": accuracy, "loss": loss, "macs": macs}


def test_order_within_a_rung():
    """By accuracy, then loss (nan last), then MACs, then place in the search."""
    rows = [
        row(5, 1, 0.6), row(9, 1, 0.5, 0.9), row(8, 1, 0.5, 1.0, 9), row(3, 1, 0.5), row(4, 1, 0.5),
        row(2, 1, 0.5, math.nan, 1), row(6, 1, 0.5, None, 2), row(1, 1, 0.1, 0.0),
    ]  # fmt: skip
    mixed = rows[::-1]
    assert sorted(mixed, key=order_of) == rows


def test_curves_are_those_of_the_best_first():
    rows = [row(1, 1, 0.9), row(2, 1, 0.8), row(3, 1, 0.7), row(2, 2, 0.6), row(1, 2, 0.5)]
    assert {c: [r["rung"] for r in curve] for c, curve in curves_of(rows).items()} == {2: [1, 2], 1: [1, 2], 3: [1]}
    assert list(curves_of(rows)) == [2, 1, 3]


def test_a_result_that_is_not_finite_is_kept(tmp_path):
    store = Store(RunDir(tmp_path))
    store.add("a", Outcome(5, 0.1, 0.01, math.nan, 2.0, 5, "left"))
    found = store.outcome("a", 5)
    assert found is not None and math.isnan(found.loss) and found.side == "left" and found.skipped == 5
    assert store.outcome("a", 6) is None and store.outcome("b", 5) is None and store.saved_step("a") == 0


def test_opening_removes_leftovers(tmp_path):
    """Of a killed rank and an earlier stop request."""
    store = Store(RunDir(tmp_path))
    store.open({"a": 1, "b": (0.9, 0.99)})
    store.ask_to_stop()
    leftover = store.run.finalist_states / ".x.safetensors.17.tmp"
    leftover.touch()
    store.open({"a": 1, "b": (0.9, 0.99)})
    assert not store.stop.exists() and not leftover.exists()
    with pytest.raises(UserError, match=r"trained with a=1 \(now 2\), c=null \(now 3\); restore this"):
        store.open({"a": 2, "b": (0.9, 0.99), "c": 3})


def test_a_damaged_line_is_a_one_line_error(tmp_path):
    run = RunDir(tmp_path)
    assert read_rows(run) == []
    Store(run).write_rows([row(1, 1, 0.5)])
    assert read_rows(run) == [row(1, 1, 0.5)]
    run.finalists.write_text("{}\n{")
    with pytest.raises(UserError, match=r"finalists\.jsonl: not JSON .*remove it"):
        read_rows(run)
    run.finalists.write_text('{"candidate": 1}\n')
    with pytest.raises(UserError, match=r"finalists\.jsonl:1: not a finalist"):
        read_rows(run)


def test_results_without_settings_are_refused(tmp_path):
    """They may come from another training: ranking them with new ones would be wrong."""
    store = Store(RunDir(tmp_path))
    store.open({"retrain.lr": 1e-3})
    store.add("a" * 16, Outcome(4, 0.5, 0.1, 1.0, 2.0))
    assert store.settings() == {"retrain.lr": 1e-3}
    (store.run.finalist_states / "settings.json").unlink()
    with pytest.raises(UserError, match=r"settings\.json: missing, .*remove .*search/finalists to train them again"):
        store.open({"retrain.lr": 1e-3})


@pytest.mark.parametrize("text", ["{}", "[1]", '{"step": 4, "loss": 1.0, "other": 2}'])
def test_a_damaged_result_is_a_one_line_error(tmp_path, text):
    store = Store(RunDir(tmp_path))
    store.add("a" * 16, Outcome(4, 0.5, 0.1, 1.0, 2.0))
    (store.run.finalist_states / f"{'a' * 16}-4.json").write_text(text)
    with pytest.raises(UserError, match=r"-4\.json: not a result of a training; remove it"):
        store.outcome("a" * 16, 4)
