"""Counts of images over ranks, views and epochs."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vitas_ds.data import sampler


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 12), st.integers(0, 99))
def test_a_cycle_of_epochs_shows_each_view_once(n, views, batch, seed):
    steps = sampler.steps_per_epoch(n, views, batch)
    assert steps == n // batch
    if steps == 0:
        return
    seen = np.concatenate([sampler.batch_ids(n, views, batch, seed, s) for s in range(steps * views)])
    counts = np.bincount(seen, minlength=n)
    assert counts.max() <= views
    assert counts.sum() == steps * views * batch  # all but the incomplete batch
    if n % batch == 0:
        assert (counts == views).all()


@given(st.integers(1, 300), st.integers(1, 9))
def test_rank_slices_cover_all_items_once(total, world_size):
    slices = [sampler.rank_slice(total, rank, world_size) for rank in range(world_size)]
    assert np.concatenate([np.arange(total)[s] for s in slices]).tolist() == list(range(total))
    sizes = [s.stop - s.start for s in slices]
    assert max(sizes) - min(sizes) <= 1


def test_order_is_a_full_shuffle_of_seed_and_epoch():
    def epoch(seed, number):
        return np.concatenate([sampler.batch_ids(1000, 1, 100, seed, 10 * number + s) for s in range(10)])

    first, again, second, other = epoch(1, 0), epoch(1, 0), epoch(1, 1), epoch(2, 0)
    assert (first == again).all() and sorted(first) == list(range(1000))
    assert all((a != b).mean() > 0.9 for a, b in ((first, second), (first, other), (first, np.arange(1000))))
    assert np.abs(first - np.arange(1000)).mean() > 250  # a shuffle within a window moves items less; 333 is expected


def test_views_of_an_image_are_spread_over_the_batch():
    ids = sampler.batch_ids(30, 3, 12, 0, 0)
    assert len(set(ids)) == 4 and (ids != np.roll(ids, 1)).all() and (ids != ids[::-1]).all()
