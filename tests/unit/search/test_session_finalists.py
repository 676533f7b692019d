"""A complete session with finalists: selection from the search, files, and a second start.

Reference: the ledger of the search.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.finalists import ALONE, Setting, setting
from vitas_ds.arch.spec import spec_from_dict
from vitas_ds.config import Config
from vitas_ds.run.metrics import read_metrics
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.tracker import Tracker
from vitas_ds.run.tracking import LiveTracker
from vitas_ds.search.ranking import ranked
from vitas_ds.search.results import select
from vitas_ds.search.scoring.ledger_reader import read_ledger
from vitas_ds.search.session import open_session, run_search
from vitas_ds.search.trials.rows import read_rows

pytestmark = pytest.mark.slow


def run_session(made: Setting, folder: Path) -> dict:
    config: Config = made.config
    run = RunDir(folder)
    folder.mkdir(exist_ok=True)
    total = config.search.population * config.search.generations
    with LiveTracker(run, "search", total, 0, [Tracker()], 0.0) as tracker:
        return run_search(open_session(config, run, ALONE, tracker, made.inputs))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Setting:
    words = ["search.finalists.count=3", "search.finalists.steps=8", "search.top_k=4", "search.images=40"]
    return setting(tmp_path_factory.mktemp("images"), *words)


@pytest.fixture(scope="module")
def done(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a"
    return RunDir(folder), run_session(made, folder)


def test_the_best_candidates_are_trained_and_lead_the_result(done):
    """The last of top_k = 4 was not trained; all four have a score on all 80 search images."""
    run, numbers = done
    searched = ranked([c for c in read_ledger(run.ledger) if c.images == 40])
    rows, best = read_rows(run), json.loads(run.best.read_text())
    assert {row["candidate"]: spec_from_dict(row["spec"]) for row in rows} == {
        place: candidate.spec for place, candidate in enumerate(searched[:3], 1)
    }
    top = best["top"]
    assert [row.get("finalist", {}).get("steps") for row in top] == [8, 8, 4, None]
    assert [row["images"] for row in top] == [80] * 4 and top[3]["spec"] == searched[3].spec.to_dict()
    winner = next(row for row in rows if row["wins"])
    assert best["spec"] == winner["spec"] == numbers["best"]["spec"]
    assert select(run, "search:best") == spec_from_dict(winner["spec"])
    assert numbers["best"]["finalist"] == best["finalist"] == top[0]["finalist"]
    assert numbers["finalists"]["accuracy"] == winner["accuracy"] and numbers["finalists"]["count"] == 3


def test_metrics_continue_after_the_candidates(done):
    rows = read_metrics(done[0])
    assert [row["step"] for row in rows] == [6, 12, 13, 14, 15, 16, 17]
    assert [row.get("finalist_step") for row in rows] == [None, None, 4, 4, 4, 8, 8]
    assert (done[0].figures / "finalists.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_start_has_the_same_result(made, done):
    run, numbers = done
    before = [path.read_text() for path in (run.finalists, run.ledger)]
    assert run_session(made, run.path) == numbers
    assert [path.read_text() for path in (run.finalists, run.ledger)] == before
