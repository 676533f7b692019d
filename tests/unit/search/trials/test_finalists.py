"""Successive halving of the finalists: decisions, resuming, settings, files and messages.

References: a second, uninterrupted run; the rungs by hand; sorting the results of the file.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.helpers.finalists import DyingTracker, Killed, ListTracker, Setting, setting
from vitas_ds.errors import Preempted, Stale, UserError
from vitas_ds.recipe import load
from vitas_ds.run.run_dir import RunDir
from vitas_ds.search.ranking import Result
from vitas_ds.search.results import write_results
from vitas_ds.search.trials.finalists import changed_settings, check_inputs, configured
from vitas_ds.search.trials.rows import read_rows
from vitas_ds.search.trials.store import Store

CPU = torch.device("cpu")
FINALISTS = ("search.finalists.count=4", "search.finalists.steps=24", "retrain.save_minutes=1e-9")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Setting:
    return setting(tmp_path_factory.mktemp("images"), *FINALISTS)


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory):
    """A folder with finished finalists, their result, and the records of the tracker."""
    folder, tracker = tmp_path_factory.mktemp("done"), ListTracker()
    return folder, tiny.run(folder, tracker), tracker


def rows_of(folder: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_rows(RunDir(folder))]


def test_the_best_of_each_rung_go_on(done):
    """Four candidates to step 12, two to step 24."""
    folder, result, _ = done
    rows = rows_of(folder)
    assert [(row["rung"], row["step"]) for row in rows] == [(1, 12)] * 4 + [(2, 24)] * 2
    first, second = rows[:4], rows[4:]
    for rung in (first, second):
        assert rung == sorted(rung, key=lambda row: (-row["accuracy"], row["loss"]))
        assert len({row["loss"] for row in rung}) == len(rung)
    assert [row["goes_on"] for row in rows] == [True, True, False, False, False, False]
    assert [row["wins"] for row in rows] == [False] * 4 + [True, False]
    assert {row["candidate"] for row in second} == {row["candidate"] for row in first[:2]}
    ranking = [row["candidate"] for row in [*second, *first[2:]]]
    assert [c.value for c in result.ranking] == [round(0.9 - (i - 1) / 100, 2) for i in ranking]
    assert result.numbers["winner"] == ranking[0] and result.numbers["accuracy"] == second[0]["accuracy"]


def test_accuracy_and_error_are_those_of_the_search_images(done):
    for row in rows_of(done[0]):
        hits = row["accuracy"] * 80
        assert hits == pytest.approx(round(hits))
        assert row["stderr"] == pytest.approx(math.sqrt(row["accuracy"] * (1 - row["accuracy"]) / 79))


def test_only_results_are_kept(done):
    files = [path.name for path in RunDir(done[0]).finalist_states.iterdir()]
    assert sorted(path.rpartition(".")[2] for path in files) == ["json"] * 7  # settings, four and two results


@pytest.mark.slow
@pytest.mark.parametrize("calls", [3, 10])
def test_killed_finalists_end_like_uninterrupted_ones(tiny, done, tmp_path, calls):
    """Killed in the second training of the first rung, or of the second one."""
    with pytest.raises(Killed):
        tiny.run(tmp_path, DyingTracker(calls))
    tracker = ListTracker()
    result = tiny.run(tmp_path, tracker)
    assert rows_of(tmp_path) == rows_of(done[0])
    assert [c.spec for c in result.ranking] == [c.spec for c in done[1].ranking]
    chunks = 4 * 2 + 2 * 2  # calls of progress without interruption: 10 + 2 steps of each candidate and rung
    assert len(tracker.left) <= chunks - calls + 1


def test_finished_finalists_train_nothing(tiny, done):
    tracker = ListTracker()
    again = tiny.run(done[0], tracker)
    assert tracker.left == [] and again == done[1]
    assert tracker.logged == done[2].logged


@pytest.mark.slow
def test_a_stop_request_is_passed_on(tiny, tmp_path):
    """The file that another rank writes stops this one at its next vote; the next start ignores and removes it."""

    class Stopping(ListTracker):
        def progress(self, step, values, left):
            super().progress(step, values, left)
            (RunDir(tmp_path).finalist_states / "stop").touch()

    tracker = Stopping()
    with pytest.raises(Preempted, match="the finalists are saved; start it again"):
        tiny.run(tmp_path, tracker)
    assert len(tracker.left) == 1
    states = list(RunDir(tmp_path).finalist_states.glob("*.safetensors"))
    assert len(states) == 1
    tiny.run(tmp_path)


def test_other_settings_are_one_line(tiny, done):
    retrain = tiny.config.retrain.model_copy(update={"lr": 0.25, "warmup_epochs": 0.25, "log_every": 1})
    other = replace(tiny, config=tiny.config.model_copy(update={"retrain": retrain}))
    with pytest.raises(Stale) as error:
        other.run(done[0])
    text = str(error.value)
    assert error.value.stage == "search" and error.value.run == str(done[0])
    assert "retrain.lr=0.005 (now 0.25), retrain.warmup_epochs=0.5 (now 0.25)" in text and "log_every" not in text
    assert "remove" in text and "\n" not in text


@pytest.mark.slow
def test_more_candidates_reuse_results(tiny, done, tmp_path):
    """With keep=0.5, six candidates have rungs of 6, 12 and 24 steps. Results at step 12 are known from four."""
    shutil.copytree(RunDir(done[0]).finalist_states, RunDir(tmp_path).finalist_states)
    finalists = tiny.config.search.finalists.model_copy(update={"count": 6})
    search = tiny.config.search.model_copy(update={"finalists": finalists})
    more = replace(tiny, config=tiny.config.model_copy(update={"search": search}))
    more.run(tmp_path)
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == [6] * 6 + [12] * 3 + [24] * 2
    known = {(row["candidate"], row["step"]): row for row in rows_of(done[0])}
    both = [row for row in rows if (row["candidate"], row["step"]) in known]
    assert len(both) >= 2
    for row in both:
        assert row["loss"] == known[row["candidate"], row["step"]]["loss"]


def test_console_and_metrics(tiny, done):
    _, _, tracker = done
    assert tracker.lines[0].startswith("search: finalists, 4 candidates to step 12, 2 to 24; about ")
    macs = sum(c.costs["macs"] for c in tiny.candidates[:4]) / 4
    total = 3 * macs * (4 * 12 + 2 * 12) * 16  # batch size 16
    retraining = 3 * tiny.candidates[0].costs["macs"] * 2 * 15 * 16  # two epochs of 240 // 16 steps
    assert f"about {total:.3g} MACs" in tracker.lines[0] and f"{total / retraining:.3g} times" in tracker.lines[0]
    assert "rung 1 of 2, step 12: accuracy" in tracker.lines[1] and tracker.lines[1].endswith("2 of 4 go on")
    assert tracker.lines[2].endswith(f"candidate {done[1].numbers['winner']} is the best") and len(tracker.lines) == 3
    assert list(tracker.logged) == [13, 14, 15, 16, 17, 18]  # after the 12 candidates of the search
    assert all({"finalist", "rung", "finalist_step", "finalist_accuracy"} <= set(v) for v in tracker.logged.values())
    assert all(left >= 0 and math.isfinite(left) for left in tracker.left)


def test_results_are_in_the_order_of_the_trainings(tiny, done, tmp_path):
    """Two untrained candidates follow. Reference: the lines of the file."""
    result, run = done[1], RunDir(tmp_path)
    top = [*result.ranking, *tiny.candidates[4:]]
    write_results(run, Result(tiny.candidates, tiny.candidates[0], [tiny.candidates[0]]), top, finalists=result)
    best = json.loads(run.best.read_text())
    last = {row["candidate"]: row for row in rows_of(done[0])}
    expected = [{k: last[c][k] for k in ("accuracy", "stderr")} | {"steps": last[c]["step"]} for c in (1, 2, 3, 4)]
    found = {row["search_score"]: row.get("finalist") for row in best["top"]}
    assert [found[c.value] for c in tiny.candidates] == [*expected, None, None]
    assert [row["rank"] for row in best["top"]] == [1, 2, 3, 4, 5, 6]
    assert best["finalist"]["steps"] == 24 and best["spec"] == result.ranking[0].spec.to_dict()


def test_trainings_that_cannot_run_are_errors_before_the_search(tiny):
    retrain = tiny.config.retrain.model_copy(update={"batch_size": 161})
    with pytest.raises(UserError, match=r"retrain\.batch_size: 161 is more than the 160 training images without"):
        check_inputs(tiny.config.model_copy(update={"retrain": retrain}), tiny.inputs, CPU)
    engine = tiny.config.engine.model_copy(update={"precision": "fp16"})
    with pytest.raises(UserError, match=r"engine\.precision: fp16 needs a GPU"):
        check_inputs(tiny.config.model_copy(update={"engine": engine}), tiny.inputs, CPU)


def test_a_damaged_state_is_one_line(tiny, tmp_path):
    with pytest.raises(Killed):
        tiny.run(tmp_path, DyingTracker(2))
    (state,) = RunDir(tmp_path).finalist_states.glob("*.safetensors")
    state.write_bytes(b"damaged")
    with pytest.raises(UserError, match=rf"{state.name}: missing or damaged; remove it to train this candidate again"):
        tiny.run(tmp_path)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ((), True), (("retrain.keep=5",), True), (("retrain.freeze=1", "retrain.layer_decay=0.7"), True),
        (("retrain.eval_images=9",), True), (("retrain.lr=1e-4",), False), (("search.finalists.steps=9",), False),
        (("retrain.teacher.model=elsewhere",), False), (("engine.precision=bf16",), False),
    ],
)  # fmt: skip
def test_a_finished_search_notices_other_trainings(tmp_path, change, same):
    """Also if the number of candidates stays: the stage compares before it says that the search is done."""
    base = ("search.finalists.count=2", "search.finalists.steps=8")
    run = RunDir(tmp_path)
    Store(run).open(configured(load("quickstart", [*base])))
    changed = changed_settings(load("quickstart", [*base, *change]), run)
    assert (changed == "") is same and (same or changed.startswith(change[0].partition("=")[0]))
