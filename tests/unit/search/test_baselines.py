"""Baselines: within the budget, and worse than the search on a score with structure.

Reference: the search with the same number of scores.
"""

import json

import pytest

from tests.helpers.searches import BUDGET, CELL, SMALL, all_within_budget, each, likeness, noise, search
from vitas_ds.arch.space import SearchSpace
from vitas_ds.config import Search
from vitas_ds.run.files import write_json
from vitas_ds.run.run_dir import RunDir
from vitas_ds.search.baselines import score_baselines
from vitas_ds.search.problem import SearchProblem
from vitas_ds.search.results import forget_baselines, write_baselines
from vitas_ds.search.scoring.evaluation import Evaluator
from vitas_ds.search.scoring.ledger import in_memory, open_ledger

CFG = Search(population=30, generations=15, macs=BUDGET)


def rugged(spec) -> float:
    """Return a score that is higher if neighboring layers differ, which uniform subnets cannot reach."""
    changes = sum(a.mlp_dim != b.mlp_dim for a, b in zip(spec.active, spec.active[1:], strict=False))
    return likeness(spec) + changes / 10


def baselines(space, cfg, score, ledger, seed):
    return score_baselines(SearchProblem(space, cfg, seed), Evaluator(score, ledger))


def test_both_baselines_are_within_the_budget_and_worse_than_the_search():
    found = baselines(SMALL, CFG, each(rugged), in_memory(), 0)
    assert {name: len(candidates) for name, candidates in found.items()} == {"random": 450, "uniform": 30}
    for candidates in found.values():
        assert all_within_budget(SMALL, CFG, candidates)
        assert candidates[0].value == max(c.value for c in candidates)
    assert all(len(set(c.spec.layers)) == 1 for c in found["uniform"])
    best = search(SMALL, CFG, each(rugged), in_memory(), 0).best.value
    assert best > max(candidates[0].value for candidates in found.values())


def test_written_baselines(tmp_path):
    found = baselines(SMALL, CFG, each(rugged), in_memory(), 0)
    run = RunDir(tmp_path)
    write_baselines(run, found)
    written = json.loads(run.baselines.read_text())
    assert {name: row["scored"] for name, row in written.items()} == {"random": 450, "uniform": 30}
    assert written["uniform"]["best"]["score"] == found["uniform"][0].value


@pytest.mark.parametrize(
    ("summary", "kept"),
    [
        ({}, True),  # the search has never ended
        ({"generations": 7}, True),
        ({"generations": 6}, False),
        ({"generations": 7, "budgets": [{"budget": "macs<=1G"}]}, False),
    ],
)
def test_baselines_of_another_search_are_forgotten(tmp_path, summary, kept):
    run = RunDir(tmp_path)
    write_json(run.baselines, {})
    write_json(run.summary, {"search": summary})
    forget_baselines(run, Search(generations=7), None)
    assert run.baselines.exists() == kept


def test_scores_of_the_search_are_reused(tmp_path):
    tiny = SearchSpace(**SMALL.model_dump() | {"depth": 2, "patch_sizes": (8,), "num_heads": (1,), "ratios": (0.5, 1)})
    cfg, calls = Search(population=20, generations=20), []

    def score(specs):
        calls.extend(specs)
        return map(noise, specs)

    search(tiny, cfg, score, open_ledger(tmp_path / "ledger.jsonl", {}), 0)
    once = len(calls)
    baselines(tiny, cfg, score, open_ledger(tmp_path / "baselines.jsonl", {}, reuse=tmp_path / "ledger.jsonl"), 0)
    assert len(calls) == once == 40  # all subnets of the space


def test_no_uniform_baseline_without_uniform_subnets():
    assert set(baselines(CELL, CFG, each(noise), in_memory(), 0)) == {"random"}
    value = search(SMALL, CFG, each(rugged), in_memory(), 0).best.costs["macs"]
    narrow = CFG.model_copy(update={"macs": (value, value + 1), "generations": 1})
    found = baselines(SMALL, narrow, each(noise), in_memory(), 0)
    assert len(found["random"]) == 30 and "uniform" not in found


def test_a_baseline_depends_on_its_seed_only():
    runs = [baselines(SMALL, CFG, each(noise), in_memory(), seed) for seed in (1, 1, 2)]
    assert [c.spec for c in runs[0]["uniform"]] == [c.spec for c in runs[1]["uniform"]]
    assert [c.spec for c in runs[0]["uniform"]] != [c.spec for c in runs[2]["uniform"]]
    assert runs[0]["random"][0].score == pytest.approx(runs[1]["random"][0].score)
