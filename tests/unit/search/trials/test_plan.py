"""Rungs, dealing and cost of the finalists. Reference: counts by hand."""

import re
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitas_ds.config import Finalists, Training
from vitas_ds.errors import UserError
from vitas_ds.search.trials.plan import (
    Rung,
    added_steps,
    deal,
    describe,
    make_rungs,
    retraining_macs,
    training_macs,
    work,
)


def rungs_of(count: int, steps: int, keep: float, candidates: int = 1000) -> list[tuple[int, int]]:
    return [(rung.nets, rung.steps) for rung in make_rungs(Finalists(count=count, steps=steps, keep=keep), candidates)]


@pytest.mark.parametrize(
    ("count", "steps", "keep", "expected"),
    [
        (8, 1000, 0.5, [(8, 250), (4, 500), (2, 1000)]),
        (9, 900, 1 / 3, [(9, 100), (3, 300), (1, 900)]),
        (5, 1000, 0.5, [(5, 250), (3, 500), (2, 1000)]),
        (2, 700, 0.5, [(2, 700)]),
        (16, 1000, 0.25, [(16, 62), (4, 250), (1, 1000)]),
        (30, 1000, 0.1, [(30, 10), (3, 100), (1, 1000)]),
        (4, 1000, 0.9, [(4, 810), (3, 900), (2, 1000)]),  # ceil(0.9 * 4) = 4: one drops out nevertheless
    ],
)
def test_rungs(count, steps, keep, expected):
    assert rungs_of(count, steps, keep) == expected


def test_fewer_candidates_than_requested_have_the_rungs_of_their_number():
    assert rungs_of(50, 1000, 0.5, candidates=4) == [(4, 500), (2, 1000)]
    assert rungs_of(50, 1000, 0.5, candidates=1) == [(1, 1000)]


def test_steps_too_short_for_the_rungs_name_the_smallest_length():
    with pytest.raises(UserError, match=r"search\.finalists\.steps: 2 is too short for 3 rungs with keep=0\.5; use 3"):
        rungs_of(8, 2, 0.5)
    assert rungs_of(8, 3, 0.5) == [(8, 1), (4, 2), (2, 3)]


@given(st.integers(2, 200), st.floats(0.05, 0.95))
def test_rungs_end_with_at_most_two_candidates(count, keep):
    rungs = make_rungs(Finalists(count=count, steps=10**8, keep=keep), 1000)
    assert rungs[-1].nets <= 2 and all(rung.nets > 2 for rung in rungs[:-1]) and rungs[-1].steps == 10**8
    for before, after in pairwise(rungs):
        assert after.nets < before.nets and after.nets >= keep * before.nets - 1


def test_work_is_dealt_by_cost():
    assert deal([5, 1, 4, 2], 2) == [[0, 1], [2, 3]]  # 6 and 6
    assert deal([1, 1, 1], 3) == [[0], [1], [2]]
    assert deal([3, 2, 1], 1) == [[0, 1, 2]] and deal([], 2) == [[], []]


def test_dealing_is_close_to_the_best_assignment():
    """Reference: all assignments. The greedy rule is at most 7/6 of the best for two groups (Graham, 1969)."""
    costs = [7.0, 6.5, 5.0, 4.0, 3.5, 3.0, 1.0]
    best = min(
        max(sum(c for c, g in zip(costs, groups, strict=True) if g == k) for k in (0, 1))
        for groups in product((0, 1), repeat=len(costs))
    )
    dealt = max(sum(costs[i] for i in tasks) for tasks in deal(costs, 2))
    assert best <= dealt <= 7 / 6 * best
    assert work([7, 2], [1, 3], 2) == 7 and work([7, 2], [1, 3], 1) == 13


def test_cost_by_hand():
    rungs = [Rung(4, 10), Rung(2, 20)]
    assert added_steps(rungs) == [10, 10]
    total = training_macs(rungs, [100, 300], batch_size=8)
    assert total == 3 * 200 * (4 * 10 + 2 * 10) * 8
    # 100 images: 12 steps of 8 images per epoch
    one = retraining_macs(Training(epochs=5, batch_size=8, warmup_epochs=0), 100, 300)
    assert one == 3 * 300 * 12 * 5 * 8
    text = describe(rungs, total, total / one)
    assert text.startswith("4 candidates to step 10, 2 to 20; about 2.88e+05 MACs") and "0.667 times" in text


def test_the_smallest_length_for_the_rungs_is_named():
    """Also for a share that needs many more steps than given. Reference: the next smaller number is refused."""
    for keep, count in ((0.5, 64), (0.01, 1000), (0.9, 12)):
        with pytest.raises(UserError, match=r"use (\d+) or more") as error:
            make_rungs(Finalists(count=count, steps=2, keep=keep), count)
        enough = int(re.search(r"use (\d+) or more", str(error.value)).group(1))
        assert make_rungs(Finalists(count=count, steps=enough, keep=keep), count)[-1].steps == enough
        with pytest.raises(UserError):
            make_rungs(Finalists(count=count, steps=enough - 1, keep=keep), count)
