"""Counts of images over ranks, views and epochs."""

from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitas_ds.config import Augment, Data
from vitas_ds.data import sampler
from vitas_ds.data.loader import _Schedule, eval_batches
from vitas_ds.data.sources import ImageSet
from vitas_ds.distributed.comm import Ranks


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


RANKS = st.sampled_from((1, 2, 8, 64, 512, 1024))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3_000_000), RANKS)
def test_up_to_1024_ranks_share_all_items_once(total, world_size):
    slices = [sampler.rank_slice(total, rank, world_size) for rank in range(world_size)]
    assert slices[0].start == 0 and slices[-1].stop == total
    assert all(a.stop == b.start for a, b in pairwise(slices))
    sizes = {s.stop - s.start for s in slices}
    assert max(sizes) - min(sizes) <= 1


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.integers(1, 3), st.integers(0, 5), st.integers(1, 2))
def test_the_global_batch_does_not_depend_on_the_ranks(seed, views, step, images_per_rank):
    """All ranks together load the global batch in its order, each image at the same slot with the same draws."""
    batch, n = 1024 * images_per_rank, 7000
    augment = Augment(aug_repeats=views)
    for world_size in (1, 64, 1024):
        ids, slots = [], []
        for rank in range(world_size):
            ranks = Ranks(rank, world_size, 0, torch.device("cpu"))
            schedule = _Schedule(n, augment, 32, batch // world_size, seed, ranks)
            first = rank * schedule.batch_size
            ids.append(sampler.batch_ids(n, views, schedule.global_batch, seed, step)[first:][: schedule.batch_size])
            slots += range(step * schedule.global_batch + first, step * schedule.global_batch + first + len(ids[-1]))
        assert np.array_equal(np.concatenate(ids), sampler.batch_ids(n, views, batch, seed, step))
        assert slots == list(range(step * batch, (step + 1) * batch))


def test_1024_ranks_request_one_epoch_once():
    n, world_size, steps = 1024 * 5 + 3, 1024, 5
    found = []
    for rank in range(world_size):
        schedule = _Schedule(n, Augment(aug_repeats=1), 32, 1, 3, Ranks(rank, world_size, 0, torch.device("cpu")))
        found += [request.ids for request in islice(schedule.requests(0, {}), steps)]
    counts = np.bincount(np.concatenate(found), minlength=n)
    assert counts.max() == 1 and counts.sum() == steps * world_size


@pytest.mark.parametrize(("n", "world_size", "batch"), [(1, 1024, 8), (1023, 1024, 1), (2500, 1024, 2), (700, 8, 16)])
def test_evaluation_loads_each_image_once(n, world_size, batch):
    """The batches of all ranks together, of random images without files."""
    images = ImageSet("", ("",) * n, np.arange(n) % 7, tuple("abcdefg"), seed=0)
    counts, sizes = np.zeros(n, int), set()
    for rank in range(world_size):
        ranks = Ranks(rank, world_size, 0, torch.device("cpu"))
        found = list(eval_batches(images, Data(resize=4), 4, batch, ranks))
        ids = np.concatenate([np.zeros(0, int), *(part.ids.numpy() for part in found)])
        assert all((part.labels == part.ids % 7).all() and len(part.ids) <= batch for part in found)
        counts[ids] += 1
        sizes.add(len(ids))
    assert (counts == 1).all() and max(sizes) - min(sizes) <= 1
