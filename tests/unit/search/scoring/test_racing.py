"""Racing compared with full scoring: the same survivors, the same full scores, fewer images.

Reference: full scoring of the same candidates.
"""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from tests.helpers.scorers import SPECS, scorer
from tests.helpers.searches import BUDGET, SMALL, Killed, dying, likeness, noise, search
from vitas_ds.config import Search
from vitas_ds.search.algorithms import make_algorithm
from vitas_ds.search.feasible.operators import sample_distinct
from vitas_ds.search.feasible.table import feasible_set
from vitas_ds.search.problem import SearchProblem
from vitas_ds.search.ranking import ranked
from vitas_ds.search.scoring.candidate import Candidate, objective_values, price, score_from_counts
from vitas_ds.search.scoring.ledger import in_memory, open_ledger
from vitas_ds.search.scoring.racing import Race, Round, round_ends
from vitas_ds.search.scoring.scorer import split_rounds
from vitas_ds.search.scoring.survival import Selection

IMAGES, BATCH = 2000, 50
CFG = Search(population=20, generations=12, macs=BUDGET, images=IMAGES)


EASE = np.random.default_rng(7).normal(0, 0.3, IMAGES)  # of each image, equal for all subnets


def answers(spec, shared=True) -> np.ndarray:
    """Draw fixed random points of both sides on each image, from the subnet's skill and, if ``shared``, its ease."""
    rng = np.random.default_rng(int(noise(spec, 2**40)))
    return (rng.random((2, IMAGES)) < 0.2 + 0.6 * likeness(spec) + shared * EASE).sum(0)


def points_on(first: int, last: int, shared=True):
    """Return a score function on the images ``first`` to ``last``."""

    def score(specs):
        for spec in specs:
            points = answers(spec, shared)[first:last]
            counts = int(points.sum()), int((points**2).sum()), last - first, 2 * (last - first)
            yield replace(score_from_counts(*counts), points="".join(map(str, points)))

    return score


def full_scores(specs, shared=True):
    """Score on all images, as a search without racing does."""
    return (replace(score, points=None) for score in points_on(0, IMAGES, shared)(specs))


def make_race(confidence: float = 0.95, ledger=None, wrap=lambda score: score, shared=True) -> Race:
    cuts = [0, *round_ends(IMAGES, BATCH)]
    rounds = [Round(b - a, wrap(points_on(a, b, shared))) for a, b in pairwise(cuts)]
    return Race(rounds, confidence, in_memory() if ledger is None else ledger)


def test_rounds_are_whole_batches_up_to_all_images():
    assert round_ends(2000, 50) == [250, 500, 1000, 2000]
    assert round_ends(1999, 50) == [250, 500, 1000, 1999]
    assert round_ends(90, 16) == [16, 32, 48, 90]
    assert round_ends(10, 256) == [10]


@pytest.mark.parametrize("algorithm", ["ga", "nsga2"])
def test_a_race_with_high_confidence_only_saves_images(algorithm):
    cfg, summaries = CFG.model_copy(update={"algorithm": algorithm}), []
    off = search(SMALL, cfg, full_scores, in_memory(), 0, images=IMAGES)
    on = search(SMALL, cfg, None, in_memory(), 0, summaries.append, IMAGES, make_race(0.999))
    assert [c.spec for c in on.candidates] == [c.spec for c in off.candidates]
    assert on.best.spec == off.best.spec and on.best.score == off.best.score
    if algorithm == "nsga2":
        assert [c.spec for c in on.pareto] == [c.spec for c in off.pareto]
    full = {c.spec: c.score for c in off.candidates}
    assert all(full[c.spec] == c.score for c in on.candidates if c.images == IMAGES)
    assert summaries[0].saved == 0  # all of the first generation survive
    saved = 1 - np.mean([c.images for c in on.candidates]) / IMAGES
    assert np.mean([s.saved for s in summaries]) == pytest.approx(saved) and saved > 0.05


@pytest.mark.slow
def test_a_race_at_95_percent_finds_an_equally_good_candidate_with_fewer_images():
    for seed in range(4):
        off = search(SMALL, CFG, full_scores, in_memory(), seed, images=IMAGES).best.score
        on = search(SMALL, CFG, None, in_memory(), seed, None, IMAGES, make_race(0.95))
        assert on.best.value > off.value - 2 * off.stderr
        assert np.mean([c.images for c in on.candidates]) < 0.85 * IMAGES


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("objectives", [(), ("macs",)])
def test_survivors_are_dropped_no_more_often_than_stated(shared, objectives):
    """Single generations of similar candidates and rivals, with a low confidence."""
    rng, runs, lost, survivors, dropped = np.random.default_rng(0), 30, 0, 0, 0
    candidates = price(SMALL, sample_distinct(feasible_set(SMALL, {}), 40 * runs, rng), 1)
    for run in range(runs):
        race, first = make_race(0.7, shared=shared), 40 * run
        new, earlier = candidates[first : first + 20], candidates[first + 20 : first + 40]
        none = Selection(np.zeros((0, 1 + len(objectives))), 20, objectives)
        previous = race.run(earlier, in_memory(), [], none)
        selection = Selection(objective_values(previous, objectives), 20, objectives)
        scored = race.run(new, in_memory(), previous, selection)
        full = [replace(c, score=next(full_scores([c.spec], shared))) for c in [*previous, *scored]]
        fronts = NonDominatedSorting().do(objective_values(full, objectives), n_stop_if_ranked=20)
        survive = np.isin(np.arange(40), np.concatenate(fronts))[20:]
        gone = np.array([c.images < IMAGES for c in scored])
        survivors, dropped, lost = survivors + survive.sum(), dropped + gone.sum(), lost + (survive & gone).sum()
    assert survivors > 200 and dropped > 100
    assert 0 < lost <= 0.3 * survivors


def test_a_dropped_candidate_cannot_survive():
    """Even if its partial score is higher than the scores of all survivors."""
    cfg = Search(population=4, generations=2, macs=BUDGET)
    algorithm = make_algorithm(SearchProblem(SMALL, cfg, 0))
    algorithm.ask()
    algorithm.tell(-np.array([[0.5], [0.6], [0.7], [0.8]]), np.ones(4, bool))
    algorithm.ask()
    algorithm.tell(-np.array([[0.99], [0.55], [0.99], [0.1]]), np.array([False, True, False, True]))
    assert sorted(-algorithm.survivors()[:, 0]) == [0.55, 0.6, 0.7, 0.8]
    algorithm.ask()
    algorithm.tell(-np.full((4, 1), 0.99), np.zeros(4, bool))
    assert sorted(-algorithm.survivors()[:, 0]) == [0.55, 0.6, 0.7, 0.8]


def test_the_rounds_of_a_scorer_add_up_to_its_score():
    """Bitwise, with a real supernet."""
    use = scorer()
    race = Race(split_rounds(use), 0.9, in_memory())
    candidates = [Candidate(spec, {"macs": i, "vitas_flops": i, "params": i}, 1) for i, spec in enumerate(SPECS)]
    scored = race.run(candidates, in_memory(), [], Selection(np.zeros((0, 1)), len(candidates)))
    assert [c.score for c in scored] == list(use(SPECS))
    assert [c.final_value for c in scored] == [c.value for c in scored]
    assert [r.images for r in race.rounds] == [16, 16, 16, 42] and race.images == 90


@pytest.mark.slow
def test_racing_keeps_the_best_candidate_of_a_real_supernet():
    """Random weights: candidates differ by chance only, the hardest case for racing."""
    use = scorer()
    cfg = Search(population=8, generations=3, macs=BUDGET)
    off = search(SMALL, cfg, use, in_memory(), 0, images=90)
    on = search(SMALL, cfg, use, in_memory(), 0, images=90, race=Race(split_rounds(use), 0.95, in_memory()))
    assert ranked(on.candidates)[0] == on.best and on.best.spec == off.best.spec


def test_a_killed_race_resumes_to_the_same_result(tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    calls = []

    def run(folder, end):
        ledger = open_ledger(folder / "races.jsonl", {})
        race = make_race(ledger=ledger, wrap=lambda score: dying(score, calls, end))
        cfg = CFG.model_copy(update={"generations": 5})
        return search(SMALL, cfg, None, open_ledger(folder / "ledger.jsonl", {}), 3, images=IMAGES, race=race)

    first = run(unbroken, 10**6)
    total = len(calls)
    for end in (0, 5, 81, 150, 10**6):
        try:
            second = run(broken, total + end)
        except Killed:
            for path in broken.glob("*.jsonl"):
                with path.open("a") as file:
                    file.write('{"spec"')
    assert len(calls) == 2 * total

    def lines(path):
        return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.open()]

    for name in ("races.jsonl", "ledger.jsonl"):
        assert lines(broken / name) == lines(unbroken / name)
    assert [c.spec for c in second.pareto] == [c.spec for c in first.pareto]


def test_reused_scores_are_not_raced(tmp_path):
    search(SMALL, CFG, full_scores, open_ledger(tmp_path / "a.jsonl", {}), 0, images=IMAGES)

    def never(score):
        def refuse(specs):
            raise AssertionError

        return refuse

    ledger = open_ledger(tmp_path / "b.jsonl", {}, reuse=tmp_path / "a.jsonl")
    search(SMALL, CFG, None, ledger, 0, images=IMAGES, race=make_race(wrap=never))
    assert len((tmp_path / "b.jsonl").read_text().splitlines()) == 240


def test_random_search_is_not_raced():
    cfg = CFG.model_copy(update={"algorithm": "random", "generations": 1})
    result = search(SMALL, cfg, full_scores, in_memory(), 0, images=IMAGES, race=make_race())
    assert all(c.images == IMAGES for c in result.candidates)
