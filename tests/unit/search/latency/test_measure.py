"""Warm-up, median and spread of a measurement.

References: clocks with a known course, and numpy.
"""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from tests.helpers.searches import SMALL
from vitas_ds.arch import genome
from vitas_ds.arch.cost import macs
from vitas_ds.arch.space import WidthTable
from vitas_ds.config import Config, Search
from vitas_ds.search.latency.measure import Runtime, current_setting, drop_outliers, measure_latency, repeat, warm_up
from vitas_ds.search.runtime import open_runtime

CPU = torch.device("cpu")
SMALLEST, LARGEST = (genome.decode(SMALL, end(SMALL)) for end in (genome.smallest, genome.largest))


def clock(seconds):
    """Return a run whose times are those of a list, then its last one forever."""
    times = iter(seconds)
    return lambda: next(times, seconds[-1])


def test_the_warm_up_ends_when_two_windows_agree():
    falling = [0.1 * 0.8**i for i in range(10)]
    assert warm_up(clock([*falling, 0.01]), 100) == 20  # the third window is the first with equal times
    assert warm_up(clock([0.1]), 100) == 10
    assert warm_up(clock([0.001]), 100) == 100, "0.1 s at least"


def test_the_warm_up_has_a_limit():
    unsteady = [float(0.1 + i % 10 // 5) for i in range(1000)]
    assert 2 < sum(unsteady[: warm_up(clock(unsteady), 2.0)]) <= 2.0 + 1.1
    assert warm_up(clock([3.0]), 2.0) == 1


def test_median_and_spread_of_the_runs():
    seconds = np.random.default_rng(0).normal(0.02, 0.001, 30)
    latency = repeat(clock(seconds.tolist()), 30, 4.0)
    assert latency.runs == 30
    assert latency.spread == pytest.approx(np.subtract(*np.percentile(seconds, [75, 25])))
    assert latency.seconds == pytest.approx(np.median(seconds), rel=0.02)


def test_fast_networks_repeat_more_often_and_slow_ones_less():
    assert repeat(clock([0.001]), 30, 4.0).runs == 100
    assert repeat(clock([1.5]), 30, 4.0).runs == 3
    assert repeat(clock([0.5]), 30, 4.0).runs == 8


def test_outliers_are_dropped():
    seconds = np.array([1.0, 1.01, 0.99, 1.02, 1.0, 9.0, 1.01, 4.0])
    assert drop_outliers(seconds).tolist() == [1.0, 1.01, 0.99, 1.02, 1.0, 1.01]
    assert drop_outliers(np.ones(5)).tolist() == [1] * 5


def test_the_images_are_random_and_equal_for_all_networks():
    found = []

    @contextmanager
    def prepare(spec, images):
        found.append(images)
        yield lambda: images

    runtime = Runtime("none", "fp32", CPU, {}, prepare)
    for spec in (SMALLEST, LARGEST):
        measure_latency(spec, runtime, 4, max_seconds=0.01)
    assert found[0].shape == (4, 3, 32, 32) and torch.equal(*found)
    assert found[0].mean().abs() < 0.05 and found[0].std() == pytest.approx(1, abs=0.05)


def test_a_larger_network_takes_longer():
    runtime = open_runtime(Config(search=Search(latency_runtime="torch", latency_precision="fp32")), CPU)
    assert macs(WidthTable.from_specs([LARGEST]))[0] > 40 * macs(WidthTable.from_specs([SMALLEST]))[0]
    small, large = (measure_latency(spec, runtime, 16, 10).seconds for spec in (SMALLEST, LARGEST))
    assert large > 2 * small


def test_the_setting_names_everything_that_matters():
    runtime = open_runtime(Config(search=Search(latency_runtime="torch", latency_precision="bf16")), CPU)
    setting = current_setting(runtime, 8)
    assert setting | {"device": None} == {
        "device": None, "runtime": "torch", "batch_size": 8, "precision": "bf16", "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__},
    }  # fmt: skip
