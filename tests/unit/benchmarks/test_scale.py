"""Estimates for many GPUs: the page, and the simulated search. tests/distributed compares the model with ranks."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks import scale
from tests.benchmarks import scale_model as model
from tests.benchmarks.scale_simulation import DETECTION, Cluster, simulate


@pytest.mark.parametrize("name", scale.TABLES)
def test_the_page_contains_the_table(name):
    page = scale.PAGE.read_text()
    assert scale.insert(page, name, scale.TABLES[name]()) == page
    assert len(re.findall(rf"<!-- table: {name} -->", page)) == 1


def test_the_best_group_is_the_fastest_one():
    for gpus in model.GPUS[1:]:
        best = model.group_of(gpus, scale.CANDIDATES, -(-scale.SEARCH_IMAGES // scale.BATCH))
        rounds = -(-scale.CANDIDATES // (gpus // best))
        assert rounds == 1 and best * scale.CANDIDATES <= gpus
        assert model.generation(gpus, best) <= model.generation(gpus, 1)


WORK = st.lists(st.floats(0.5, 2), min_size=1, max_size=40).map(np.array)


@given(WORK, st.sampled_from((1, 2, 8)), st.floats(0, 0.3), st.integers(0, 99))
def test_every_candidate_is_scored_once(work, group, slow, seed):
    found = simulate(Cluster(8, group, slow=slow, lost=0.02), work, seed)
    assert (found.scored == 1).all() and found.starts >= 1
    assert (found.wasted > 0) == (found.starts > 1)
    assert found.seconds >= (found.starts - 1) * (DETECTION + 60)


def test_equal_ranks_take_the_ideal_time():
    found = simulate(Cluster(512, jitter=0), np.ones(5120), 0)
    assert found.seconds == pytest.approx(found.ideal) == 10
    assert simulate(Cluster(512, 8, jitter=0), np.ones(5120), 0).seconds == pytest.approx(10)


def test_one_slow_rank_delays_every_round():
    found = simulate(Cluster(512, jitter=0, slow=1.0), np.ones(5120), 0)
    assert found.seconds == pytest.approx(15)
    some = simulate(Cluster(512, jitter=0, slow=0.05), np.ones(5120), 0)
    assert some.seconds == pytest.approx(15)
