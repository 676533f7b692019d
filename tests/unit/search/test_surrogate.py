"""The regressor that proposes: against scikit-learn, used where it has shown that it ranks nets, and deterministic."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge as Reference

from tests.helpers.searches import BUDGET, CELL, SMALL, Killed, each, likeness, noise
from vitas_ds.config import Search
from vitas_ds.search.algorithms import best_of, front
from vitas_ds.search.feasible.operators import fresh
from vitas_ds.search.feasible.table import feasible
from vitas_ds.search.loop import search
from vitas_ds.search.scoring.ledger import in_memory, open_ledger
from vitas_ds.search.surrogate import STRENGTHS, features, fit, ridge

GENOMES = fresh(feasible(SMALL, {"macs": BUDGET}), 150, np.random.default_rng(0))


def additive(spec) -> float:
    """What a regression can learn."""
    wide = sum(layer.mlp_dim / 128 - layer.qkv_dim / 288 for layer in spec.active)
    return (wide + spec.embed_dim / 64) / 8 + noise(spec, 0.05)


def test_it_is_ridge_regression_with_the_best_left_out_error():
    X, rng = features(SMALL, GENOMES), np.random.default_rng(1)
    y = X @ rng.normal(size=X.shape[1]) + rng.normal(0, 2, len(X))
    mine = ridge(X, y)
    known = [Reference(alpha=s).fit(X, y) for s in STRENGTHS]
    near = [i for i, one in enumerate(known) if np.allclose(one.predict(X), mine(X), atol=1e-6)]
    assert len(near) == 1

    def left_out(strength: float) -> float:
        """Leave-one-out error, by fitting as often as there are nets."""
        errors = []
        for i in range(len(X)):
            rest = np.arange(len(X)) != i
            errors.append(Reference(alpha=strength).fit(X[rest], y[rest]).predict(X[[i]])[0] - y[i])
        return float(np.mean(np.square(errors)))

    assert near[0] == int(np.argmin([left_out(s) for s in STRENGTHS]))


def test_the_correlation_is_on_nets_that_were_not_fitted():
    rng = np.random.default_rng(2)
    X = features(SMALL, GENOMES)
    told = fit(SMALL, GENOMES, X @ rng.normal(size=X.shape[1]), 0)[1]
    luck = [fit(SMALL, GENOMES, rng.random(len(X)), seed)[1] for seed in range(5)]
    assert told > 0.9 and max(map(abs, luck)) < 0.3


@pytest.mark.parametrize("space", [SMALL, CELL], ids=["layer", "cell"])
def test_too_few_or_equal_scores_fit_nothing(space):
    some = fresh(feasible(space, {}), 30, np.random.default_rng(0))
    assert fit(space, some[:10], np.arange(10.0), 0) == (None, 0.0)
    assert fit(space, some, np.ones(30), 0) == (None, 0.0)
    assert fit(space, some, np.arange(30.0), 0)[0] is not None


def test_the_best_rows_come_front_by_front():
    values = np.random.default_rng(0).random((40, 2))
    order = best_of(values, 40)
    assert sorted(order) == list(range(40))
    first = front(values)
    assert set(order[: len(first)]) == set(first)
    assert (np.diff(values[order[: len(first)], 0]) >= 0).all()
    assert best_of(values[:, :1], 5).tolist() == np.argsort(values[:, 0])[:5].tolist()


def best(threshold: float, seed: int, score=additive, told=None) -> float:
    cfg = Search(population=20, generations=8, macs=BUDGET, surrogate=threshold)
    return search(SMALL, cfg, each(score), in_memory(), seed, told).best.score.value


def test_where_scores_can_be_learned_it_finds_better_nets():
    """At equal numbers of scores, in each of the seeds."""
    pairs = [(best(0.3, seed), best(0.0, seed)) for seed in range(4)]
    assert all(guided > plain for guided, plain in pairs)


def test_below_the_threshold_it_changes_nothing():
    """Scores of pure chance cannot be ranked: the search goes as if there were no regressor, and says so."""
    cfg, told = Search(population=20, generations=5, macs=BUDGET), []
    plain = search(SMALL, cfg, each(noise), in_memory(), 0).entries
    careful = cfg.model_copy(update={"surrogate": 0.6})
    guided = search(SMALL, careful, each(noise), in_memory(), 0, told.append).entries
    assert [e.spec for e in guided] == [e.spec for e in plain]
    assert told[0].correlation is None and all(p.correlation < 0.6 for p in told[1:])


@pytest.mark.parametrize("algorithm", ["ga", "nsga2"])
def test_a_killed_search_goes_on_with_the_same_proposals(tmp_path, algorithm):
    cfg = Search(algorithm=algorithm, population=12, generations=6, macs=BUDGET, surrogate=0.2)
    told = []
    whole = search(SMALL, cfg, each(additive), open_ledger(tmp_path / "whole.jsonl", {}), 5, told.append)
    assert any((p.correlation or 0) >= 0.2 for p in told)
    calls = []

    def mortal(end: int):
        def score(specs):
            for spec in specs:
                if len(calls) >= end:
                    raise Killed
                calls.append(spec)
                yield additive(spec)

        return score

    for end in (30, 55, 1000):
        try:
            result = search(SMALL, cfg, mortal(end), open_ledger(tmp_path / "broken.jsonl", {}), 5)
        except Killed:
            continue
    assert len(calls) == len(set(calls)) == 72
    assert [e.spec for e in result.entries] == [e.spec for e in whole.entries]


@pytest.mark.slow
def test_a_known_optimum_is_still_found():
    cfg = Search(population=50, generations=25, macs=BUDGET, surrogate=0.2)
    assert search(SMALL, cfg, each(likeness), in_memory(), 0).best.score.value == 1.0


def test_random_search_has_no_use_for_it():
    cfg = Search(algorithm="random", population=5, generations=1, surrogate=0.5)
    with pytest.warns(UserWarning, match=r"search\.surrogate is ignored"):
        search(SMALL, cfg, each(noise), in_memory(), 0)
