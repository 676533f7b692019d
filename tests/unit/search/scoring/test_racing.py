"""Racing against full scoring: the same survivors, the same full scores, fewer images."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from tests.helpers.scorers import SPECS, scorer
from tests.helpers.searches import BUDGET, SMALL, Killed, likeness, noise
from vitas_ds.config import Search
from vitas_ds.search import algorithms
from vitas_ds.search.feasible.operators import fresh
from vitas_ds.search.feasible.table import feasible
from vitas_ds.search.loop import ranked, search, values
from vitas_ds.search.scoring.candidates import candidates
from vitas_ds.search.scoring.ledger import in_memory, open_ledger, score_of
from vitas_ds.search.scoring.racing import Race, ends
from vitas_ds.search.scoring.scorer import looks

IMAGES, BATCH = 2000, 50
CFG = Search(population=20, generations=12, macs=BUDGET, images=IMAGES)


EASE = np.random.default_rng(7).normal(0, 0.3, IMAGES)  # of each image, for all nets alike


def answers(spec, alike=True) -> np.ndarray:
    """Points of both sides on each image: a fixed random draw of the net's skill and, where ``alike``, its ease."""
    rng = np.random.default_rng(int(noise(spec, 2**40)))
    return (rng.random((2, IMAGES)) < 0.2 + 0.6 * likeness(spec) + alike * EASE).sum(0)


def points_on(first: int, last: int, alike=True):
    """Scores of nets on some of the images."""

    def score(specs):
        for spec in specs:
            points = answers(spec, alike)[first:last]
            counts = int(points.sum()), int((points**2).sum()), last - first, 2 * (last - first)
            yield replace(score_of(*counts), points="".join(map(str, points)))

    return score


def whole(specs, alike=True):
    """Scores of nets on all images, as a search without a race has them."""
    return (replace(score, points=None) for score in points_on(0, IMAGES, alike)(specs))


def rules(confidence: float = 0.95, looks=None, wrap=lambda score: score, alike=True) -> Race:
    cuts = [0, *ends(IMAGES, BATCH)]
    parts = [(b - a, wrap(points_on(a, b, alike))) for a, b in pairwise(cuts)]
    return Race(parts, confidence, in_memory() if looks is None else looks)


def test_the_looks_are_whole_batches_up_to_all_images():
    assert ends(2000, 50) == [250, 500, 1000, 2000]
    assert ends(1999, 50) == [250, 500, 1000, 1999]
    assert ends(90, 16) == [16, 32, 48, 90]
    assert ends(10, 256) == [10]


@pytest.mark.parametrize("algorithm", ["ga", "nsga2"])
def test_a_race_that_is_sure_changes_nothing_but_the_cost(algorithm):
    cfg, told = CFG.model_copy(update={"algorithm": algorithm}), []
    off = search(SMALL, cfg, whole, in_memory(), 0, images=IMAGES)
    on = search(SMALL, cfg, None, in_memory(), 0, told.append, IMAGES, rules(0.999))
    assert [e.spec for e in on.entries] == [e.spec for e in off.entries]
    assert on.best.spec == off.best.spec and on.best.score == off.best.score
    if algorithm == "nsga2":
        assert [e.spec for e in on.pareto] == [e.spec for e in off.pareto]
    full = {e.spec: e.score for e in off.entries}
    assert all(full[e.spec] == e.score for e in on.entries if e.score.images == IMAGES)
    assert told[0].saved == 0  # all of the first generation survive
    saved = 1 - np.mean([e.score.images for e in on.entries]) / IMAGES
    assert np.mean([p.saved for p in told]) == pytest.approx(saved) and saved > 0.05


@pytest.mark.slow
def test_a_race_at_95_percent_finds_as_good_a_net_with_fewer_images():
    for seed in range(4):
        off = search(SMALL, CFG, whole, in_memory(), seed, images=IMAGES).best.score
        on = search(SMALL, CFG, None, in_memory(), seed, None, IMAGES, rules(0.95))
        assert on.best.score.value > off.value - 2 * off.stderr
        assert np.mean([e.score.images for e in on.entries]) < 0.85 * IMAGES


@pytest.mark.slow
@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("objectives", [(), ("macs",)])
def test_survivors_are_lost_no_more_often_than_stated(alike, objectives):
    """Single generations of close nets against close rivals, at a confidence that may fail."""
    rng, runs, lost, would, dropped = np.random.default_rng(0), 30, 0, 0, 0
    nets = candidates(SMALL, fresh(feasible(SMALL, {}), 40 * runs, rng), 1)
    for run in range(runs):
        race, some, others = rules(0.7, alike=alike), nets[40 * run :][:20], nets[40 * run + 20 :][:20]
        past, _ = race.run(others, in_memory(), [], np.zeros((0, 1 + len(objectives))), 20, objectives)
        entries, _ = race.run(some, in_memory(), past, values(past, objectives), 20, objectives)
        full = [replace(e, score=next(whole([e.spec], alike))) for e in [*past, *entries]]
        fronts = NonDominatedSorting().do(values(full, objectives), n_stop_if_ranked=20)
        survive = np.isin(np.arange(40), np.concatenate(fronts))[20:]
        gone = np.array([e.score.images < IMAGES for e in entries])
        would, dropped, lost = would + survive.sum(), dropped + gone.sum(), lost + (survive & gone).sum()
    assert would > 200 and dropped > 100
    assert 0 < lost <= 0.3 * would


def test_what_is_dropped_cannot_survive():
    """Though its score on the images that it has seen is higher than those of all survivors."""
    cfg = Search(population=4, generations=2, macs=BUDGET)
    algorithm = algorithms.algorithm(feasible(SMALL, {"macs": BUDGET}), cfg, 0)
    algorithm.ask()
    algorithm.tell(-np.array([[0.5], [0.6], [0.7], [0.8]]), np.ones(4, bool))
    algorithm.ask()
    algorithm.tell(-np.array([[0.99], [0.55], [0.99], [0.1]]), np.array([False, True, False, True]))
    assert sorted(-algorithm.survivors()[:, 0]) == [0.55, 0.6, 0.7, 0.8]
    algorithm.ask()
    algorithm.tell(-np.full((4, 1), 0.99), np.zeros(4, bool))
    assert sorted(-algorithm.survivors()[:, 0]) == [0.55, 0.6, 0.7, 0.8]


def test_the_looks_of_a_scorer_add_up_to_its_score():
    """Bit for bit: with a real supernet."""
    use = scorer()
    race = Race(looks(use), 0.9, in_memory())
    nets = [(spec, {"macs": i, "vitas_flops": i, "params": i}, 1) for i, spec in enumerate(SPECS)]
    entries, expected = race.run(nets, in_memory(), [], np.zeros((0, 1)), len(nets), ())
    assert [e.score for e in entries] == list(use(SPECS)) and expected.tolist() == [e.score.value for e in entries]
    assert [images for images, _ in race.parts] == [16, 16, 16, 42] and race.images == 90


@pytest.mark.slow
def test_with_real_scores_racing_keeps_the_best():
    """Random weights: candidates differ by luck alone, the hardest case for a race."""
    use = scorer()
    cfg = Search(population=8, generations=3, macs=BUDGET)
    off = search(SMALL, cfg, use, in_memory(), 0, images=90)
    on = search(SMALL, cfg, use, in_memory(), 0, images=90, race=Race(looks(use), 0.95, in_memory()))
    assert ranked(on.entries)[0] == on.best and on.best.spec == off.best.spec


def test_a_killed_race_ends_as_an_unbroken_one(tmp_path):
    unbroken, broken = tmp_path / "whole", tmp_path / "broken"
    done = []

    def wrap(end):
        def mortal(score):
            def counted(specs):
                for value in score(specs):
                    if len(done) >= end:
                        raise Killed
                    done.append(value)
                    yield value

            return counted

        return mortal

    def run(folder, end):
        race = rules(looks=open_ledger(folder / "races.jsonl", {}), wrap=wrap(end))
        cfg = CFG.model_copy(update={"generations": 5})
        return search(SMALL, cfg, None, open_ledger(folder / "ledger.jsonl", {}), 3, images=IMAGES, race=race)

    first = run(unbroken, 10**6)
    total = len(done)
    for end in (0, 5, 81, 150, 10**6):
        try:
            second = run(broken, total + end)
        except Killed:
            for name in ("races.jsonl", "ledger.jsonl"):
                if (broken / name).exists():
                    with (broken / name).open("a") as file:
                        file.write('{"spec"')
    assert len(done) == 2 * total

    def lines(path):
        return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.open()]

    for name in ("races.jsonl", "ledger.jsonl"):
        assert lines(broken / name) == lines(unbroken / name)
    assert [e.spec for e in second.pareto] == [e.spec for e in first.pareto]


def test_borrowed_scores_are_not_raced(tmp_path):
    search(SMALL, CFG, whole, open_ledger(tmp_path / "a.jsonl", {}), 0, images=IMAGES)

    def never(score):
        def refuse(specs):
            raise AssertionError

        return refuse

    ledger = open_ledger(tmp_path / "b.jsonl", {}, reuse=tmp_path / "a.jsonl")
    search(SMALL, CFG, None, ledger, 0, images=IMAGES, race=rules(wrap=never))
    assert len((tmp_path / "b.jsonl").read_text().splitlines()) == 240


def test_random_search_is_not_raced():
    cfg = CFG.model_copy(update={"algorithm": "random", "generations": 1})
    with pytest.warns(UserWarning, match=r"search.racing is ignored"):
        result = search(SMALL, cfg, whole, in_memory(), 0, images=IMAGES, race=rules())
    assert all(e.score.images == IMAGES for e in result.entries)
