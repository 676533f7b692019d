"""The baselines score inside the same budget, and a search beats them where there is something to find."""

import json

import pytest

from tests.helpers.searches import BUDGET, CELL, SMALL, all_inside, each, likeness, noise
from vitas_ds.arch.space import SearchSpace
from vitas_ds.config import Search
from vitas_ds.search.baselines import baselines
from vitas_ds.search.loop import search
from vitas_ds.search.results import write_baselines
from vitas_ds.search.scoring.ledger import in_memory, open_ledger

CFG = Search(population=30, generations=15, macs=BUDGET)


def rugged(spec) -> float:
    """Likes layers to take turns, which no uniform net does."""
    turns = sum(a.mlp_dim != b.mlp_dim for a, b in zip(spec.active, spec.active[1:], strict=False))
    return likeness(spec) + turns / 10


def test_both_baselines_are_inside_the_budget_and_beaten():
    found = baselines(SMALL, CFG, each(rugged), in_memory(), 0)
    assert {name: len(entries) for name, entries in found.items()} == {"random": 450, "uniform": 30}
    for entries in found.values():
        assert all_inside(SMALL, CFG, entries)
        assert entries[0].score.value == max(e.score.value for e in entries)
    assert all(len(set(e.spec.layers)) == 1 for e in found["uniform"])
    best = search(SMALL, CFG, each(rugged), in_memory(), 0).best.score.value
    assert best > max(entries[0].score.value for entries in found.values())


def test_what_is_written(tmp_path):
    found = baselines(SMALL, CFG, each(rugged), in_memory(), 0)
    write_baselines(tmp_path, found)
    told = json.loads((tmp_path / "baselines.json").read_text())
    assert {name: row["scored"] for name, row in told.items()} == {"random": 450, "uniform": 30}
    assert told["uniform"]["best"]["score"] == found["uniform"][0].score.value


def test_scores_of_the_search_are_not_paid_twice(tmp_path):
    tiny = SearchSpace(**SMALL.model_dump() | {"depth": 2, "patch_sizes": (8,), "num_heads": (1,), "ratios": (0.5, 1)})
    cfg, asked = Search(population=20, generations=20), []

    def score(specs):
        asked.extend(specs)
        return map(noise, specs)

    search(tiny, cfg, score, open_ledger(tmp_path / "ledger.jsonl", {}), 0)
    once = len(asked)
    baselines(tiny, cfg, score, open_ledger(tmp_path / "baselines.jsonl", {}, reuse=tmp_path / "ledger.jsonl"), 0)
    assert len(asked) == once == 40  # all nets there are


def test_where_no_uniform_net_exists_there_is_no_such_baseline():
    assert set(baselines(CELL, CFG, each(noise), in_memory(), 0)) == {"random"}
    value = search(SMALL, CFG, each(rugged), in_memory(), 0).best.costs["macs"]
    narrow = CFG.model_copy(update={"macs": (value, value + 1), "generations": 1})
    found = baselines(SMALL, narrow, each(noise), in_memory(), 0)
    assert len(found["random"]) == 30 and "uniform" not in found


def test_a_baseline_is_a_function_of_its_seed():
    runs = [baselines(SMALL, CFG, each(noise), in_memory(), seed) for seed in (1, 1, 2)]
    assert [e.spec for e in runs[0]["uniform"]] == [e.spec for e in runs[1]["uniform"]]
    assert [e.spec for e in runs[0]["uniform"]] != [e.spec for e in runs[2]["uniform"]]
    assert runs[0]["random"][0].score == pytest.approx(runs[1]["random"][0].score)
