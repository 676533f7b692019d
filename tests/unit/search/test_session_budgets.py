"""Several budgets in one search: files, retraining, a second start, and more budgets later.

Reference: the ledger, a plain loop over its candidates, and a search with one of the budgets.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.finalists import ALONE, Setting, setting
from vitas_ds.arch.spec import SubnetSpec, spec_from_dict
from vitas_ds.errors import UserError
from vitas_ds.reports import search_section
from vitas_ds.run.metrics import read_metrics
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.tracker import Tracker
from vitas_ds.run.tracking import LiveTracker
from vitas_ds.search.results import select
from vitas_ds.search.scoring.ledger_reader import read_ledger
from vitas_ds.search.session import open_session, run_search
from vitas_ds.search.trials.rows import read_rows

pytestmark = pytest.mark.slow

LIMITS = {"macs<=200K": (180_000, 200_000), "250K<=macs<=400K": (250_000, 400_000)}
WORDS = ["search.macs=null", "search.budgets=[200K, [250K, 400K]]", "search.images=40", "search.top_k=2"]


def run_session(made: Setting, folder: Path) -> dict[str, Any]:
    run, cfg = RunDir(folder), made.config.search
    folder.mkdir(exist_ok=True)
    total = cfg.population * cfg.generations * len(cfg.each_budget())
    with LiveTracker(run, "search", total, 0, [Tracker()], 0.0) as tracker:
        return run_search(open_session(made.config, run, ALONE, tracker, made.inputs))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def made(images: Path) -> Setting:
    return setting(images, *WORDS)


@pytest.fixture(scope="module")
def done(made: Setting, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("runs") / "a"
    return RunDir(folder), run_session(made, folder)


def best_within(run: RunDir, low: float, high: float, images: int) -> SubnetSpec:
    found = [c for c in read_ledger(run.ledger) if c.images == images and low <= c.costs["macs"] <= high]
    return min(found, key=lambda c: (-c.value, c.costs["macs"])).spec


def test_best_json_has_the_best_candidate_of_each_budget(done: tuple[RunDir, dict[str, Any]]) -> None:
    run, numbers = done
    best = json.loads(run.best.read_text())
    assert [row["budget"] for row in best["budgets"]] == [row["budget"] for row in numbers["budgets"]] == [*LIMITS]
    for i, (row, bounds) in enumerate(zip(best["budgets"], LIMITS.values(), strict=True)):
        first = row["top"][0]
        assert len(row["top"]) == 2 and all(bounds[0] <= entry["macs"] <= bounds[1] for entry in row["top"])
        assert spec_from_dict(first["spec"]) == best_within(run, *bounds, images=80)
        assert select(run, f"search:budget[{i}]") == spec_from_dict(first["spec"])
        assert numbers["budgets"][i]["macs"] == first["macs"]
    winners = [row["top"][0]["score"] for row in best["budgets"]]
    assert [row["score"] for row in best["top"]] == sorted(winners, reverse=True)
    assert best["score"] == numbers["best"]["score"] == max(winners)


def test_every_budget_is_searched_as_if_alone(
    done: tuple[RunDir, dict[str, Any]], images: Path, tmp_path: Path
) -> None:
    """The second one here; its candidates do not depend on those of the first."""
    alone = setting(images, "search.macs=[250e3, 400e3]", *WORDS[2:])
    numbers = run_session(alone, tmp_path / "b")
    assert numbers["best"]["spec"] == done[1]["budgets"][1]["spec"] and "budgets" not in numbers
    assert "budgets" not in json.loads(RunDir(tmp_path / "b").best.read_text())
    inside = {c.spec for c in read_ledger(done[0].ledger) if c.costs["macs"] >= 250_000}
    assert inside == {c.spec for c in read_ledger(RunDir(tmp_path / "b").ledger)}


def test_metrics_count_the_candidates_of_all_budgets(done: tuple[RunDir, dict[str, Any]]) -> None:
    rows = read_metrics(done[0])
    assert [row["step"] for row in rows] == [6, 12, 18, 24] and [row["budget"] for row in rows] == [0, 0, 1, 1]
    assert [row["generation"] for row in rows] == [1, 2, 1, 2]
    assert len(search_section.progress_chart(rows)) > 1000 and done[1]["scored"] == 24


def test_a_second_start_scores_nothing_and_a_further_budget_only_its_own(
    made: Setting, done: tuple[RunDir, dict[str, Any]], images: Path
) -> None:
    run, numbers = done
    before = run.ledger.read_text()
    assert run_session(made, run.path) == numbers and run.ledger.read_text() == before
    more = setting(images, WORDS[0], "search.budgets=[200K, [250K, 400K], 500K]", *WORDS[2:])
    assert run_session(more, run.path)["budgets"][:2] == numbers["budgets"]
    new = run.ledger.read_text().removeprefix(before).splitlines()
    assert new and all(450_000 <= json.loads(line)["macs"] <= 500_000 for line in new)


def test_finalists_are_trained_within_each_budget(images: Path, tmp_path: Path) -> None:
    words = ["search.finalists.count=2", "search.finalists.steps=3", "search.finalists.init=supernet"]
    made, run = setting(images, *WORDS, *words), RunDir(tmp_path / "a")
    numbers = run_session(made, run.path)
    rows = read_rows(run)
    assert [(row["candidate"], row["budget"]) for row in sorted(rows, key=lambda row: row["candidate"])] == [
        (1, "macs<=200K"), (2, "macs<=200K"), (3, "250K<=macs<=400K"), (4, "250K<=macs<=400K"),
    ]  # fmt: skip
    winners = [row for row in rows if row["wins"]]
    assert [row["spec"] for row in winners] == [row["spec"] for row in numbers["budgets"]]
    assert [row["accuracy"] for row in winners] == [row["finalist"]["accuracy"] for row in numbers["budgets"]]
    assert numbers["finalists"]["candidates"] == 4 and not [*run.finalist_states.glob("*.safetensors")]
    before = run.finalists.read_text()
    assert run_session(made, run.path) == numbers and run.finalists.read_text() == before


def test_a_finalist_of_two_budgets_has_the_result_of_its_longest_training(images: Path, tmp_path: Path) -> None:
    """All networks are in both ranges, and the second one trains its finalists for one rung more."""
    words = ["search.macs=null", "search.budgets=[[0, 400K], [0, 399K]]", "search.top_k=2", "search.images=40"]
    finalists = ["search.finalists.count=4", "search.finalists.steps=4", "search.finalists.init=supernet"]
    made, run = setting(images, *words, *finalists), RunDir(tmp_path / "a")
    run_session(made, run.path)
    longest: dict[str, int] = {}
    for row in read_rows(run):
        key = json.dumps(row["spec"])
        longest[key] = max(longest.get(key, 0), row["step"])
    best = json.loads(run.best.read_text())
    entries = [entry for budget in best["budgets"] for entry in budget["top"] if "finalist" in entry]
    assert entries and all(entry["finalist"]["steps"] == longest[json.dumps(entry["spec"])] for entry in entries)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("search:budget[9]", r"best.json has budget\[0\] to budget\[[12]\]: \[0\] 0.[0-9]+M .*, \[1\]"),
        ("search:budgets", "does not name a candidate"),
        ("search:budget", "does not name a candidate"),
    ],
)
def test_an_unknown_budget_is_one_line(done: tuple[RunDir, dict[str, Any]], choice: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"^retrain\.spec: .*{message}") as error:
        select(done[0], choice)
    assert "\n" not in str(error.value)
