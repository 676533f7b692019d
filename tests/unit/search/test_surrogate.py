"""The surrogate: used only if it ranks held-out candidates, and deterministic."""

import numpy as np
import pytest

from tests.helpers.searches import BUDGET, CELL, SMALL, Killed, dying, each, likeness, noise, search
from vitas_ds.config import Search
from vitas_ds.search.algorithms import non_dominated, select_best
from vitas_ds.search.feasible.operators import sample_distinct
from vitas_ds.search.feasible.table import feasible_set
from vitas_ds.search.scoring.ledger import in_memory, open_ledger
from vitas_ds.search.surrogate import fit_model, genome_features

GENOMES = sample_distinct(feasible_set(SMALL, {"macs": BUDGET}), 150, np.random.default_rng(0))


def additive(spec) -> float:
    """Return a score additive in the widths, plus noise."""
    wide = sum(layer.mlp_dim / 128 - layer.qkv_dim / 288 for layer in spec.active)
    return (wide + spec.embed_dim / 64) / 8 + noise(spec, 0.05)


def test_the_correlation_is_on_held_out_genomes():
    rng = np.random.default_rng(2)
    X = genome_features(SMALL, GENOMES)
    linear = fit_model(SMALL, GENOMES, X @ rng.normal(size=X.shape[1]), 0)[1]
    random = [fit_model(SMALL, GENOMES, rng.random(len(X)), seed)[1] for seed in range(5)]
    assert linear > 0.9 and max(map(abs, random)) < 0.3


@pytest.mark.parametrize("space", [SMALL, CELL], ids=["layer", "cell"])
def test_no_model_for_too_few_or_equal_scores(space):
    genomes = sample_distinct(feasible_set(space, {}), 30, np.random.default_rng(0))
    assert fit_model(space, genomes[:10], np.arange(10.0), 0) == (None, 0.0)
    assert fit_model(space, genomes, np.ones(30), 0) == (None, 0.0)
    assert fit_model(space, genomes, np.arange(30.0), 0)[0] is not None


def test_the_best_rows_are_selected_front_by_front():
    values = np.random.default_rng(0).random((40, 2))
    order = select_best(values, 40)
    assert sorted(order) == list(range(40))
    first = non_dominated(values)
    assert set(order[: len(first)]) == set(first)
    assert (np.diff(values[order[: len(first)], 0]) >= 0).all()
    assert select_best(values[:, :1], 5).tolist() == np.argsort(values[:, 0])[:5].tolist()


def best(threshold: float, seed: int, score=additive) -> float:
    cfg = Search(population=20, generations=8, macs=BUDGET, surrogate=threshold)
    return search(SMALL, cfg, each(score), in_memory(), seed).best.value


def test_it_finds_better_candidates_if_scores_can_be_learned():
    """With as many scores, for every seed."""
    pairs = [(best(0.3, seed), best(0.0, seed)) for seed in range(4)]
    assert all(guided > plain for guided, plain in pairs)


def test_it_changes_nothing_below_the_threshold():
    """Random scores cannot be predicted: the search is the same as without a surrogate, and reports the correlation."""
    cfg, summaries = Search(population=20, generations=5, macs=BUDGET), []
    plain = search(SMALL, cfg, each(noise), in_memory(), 0).candidates
    careful = cfg.model_copy(update={"surrogate": 0.6})
    guided = search(SMALL, careful, each(noise), in_memory(), 0, summaries.append).candidates
    assert [c.spec for c in guided] == [c.spec for c in plain]
    assert summaries[0].correlation is None and all(s.correlation < 0.6 for s in summaries[1:])


@pytest.mark.parametrize("algorithm", ["ga", "nsga2"])
def test_a_killed_search_resumes_with_the_same_proposals(tmp_path, algorithm):
    cfg = Search(algorithm=algorithm, population=12, generations=6, macs=BUDGET, surrogate=0.2)
    summaries = []
    ledger = open_ledger(tmp_path / "unbroken.jsonl", {})
    unbroken = search(SMALL, cfg, each(additive), ledger, 5, summaries.append)
    assert any((s.correlation or 0) >= 0.2 for s in summaries)
    calls = []

    for end in (30, 55, 1000):
        try:
            result = search(
                SMALL, cfg, dying(each(additive), calls, end), open_ledger(tmp_path / "broken.jsonl", {}), 5
            )
        except Killed:
            continue
    assert len(calls) == len(set(calls)) == 72
    assert [c.spec for c in result.candidates] == [c.spec for c in unbroken.candidates]


@pytest.mark.slow
def test_a_known_optimum_is_still_found():
    cfg = Search(population=50, generations=25, macs=BUDGET, surrogate=0.2)
    assert search(SMALL, cfg, each(likeness), in_memory(), 0).best.value == 1.0
