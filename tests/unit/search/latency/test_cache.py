"""The cache of measured latencies: one per setting, written at once."""

import os
import signal
import time

import numpy as np
import pytest
import torch

from vitas_ds.arch.space import SearchSpace
from vitas_ds.config import Config, Search
from vitas_ds.distributed import preemption
from vitas_ds.errors import Preempted
from vitas_ds.search.latency.cache import CHUNK, LatencyCache
from vitas_ds.search.latency.lines import Latency
from vitas_ds.search.latency.measure import current_setting
from vitas_ds.search.runtime import open_runtime
from vitas_ds.training import sampling

NETS = [sampling.draw(SearchSpace(), 0, step, 0.5) for step in range(2 * CHUNK + 1)]


def setting_of(batch_size: int, precision: str):
    config = Config(search=Search(latency_runtime="torch", latency_precision=precision))
    return current_setting(open_runtime(config, torch.device("cpu")), batch_size)


def test_the_cache_is_separate_for_each_setting(tmp_path):
    path, measured = tmp_path / "cache" / "latency.jsonl", []

    def clock(spec):
        measured.append(spec)
        return Latency(time.perf_counter(), 0.1, 3)

    setting = setting_of(1, "fp32")
    first = LatencyCache(path, setting, clock).measure(NETS[:5])
    with path.open("a") as file:
        file.write('{"spec": {"ima')  # killed while writing
    again = LatencyCache(path, setting, clock)
    assert again.measure(NETS[:5]).tolist() == first.tolist() and len(measured) == 5
    assert again.measure(NETS[:6])[:5].tolist() == first.tolist() and len(measured) == 6
    assert (
        LatencyCache(path, setting, clock).measure(NETS[:6]).tolist() == again.measure(NETS[:6]).tolist()
        and len(measured) == 6
    )
    versions = {"versions": {"torch": "other"}}
    for other in (setting_of(2, "fp32"), setting_of(1, "bf16"), setting | versions, setting | {"runtime": "other"}):
        LatencyCache(path, other, clock).measure(NETS[:1])
    assert len(measured) == 10


def test_many_networks_are_measured_once_and_keep_their_spread(tmp_path):
    count = iter(range(1, 100))
    cache = LatencyCache(tmp_path / "a.jsonl", {"x": 1}, lambda spec: Latency(next(count), 0.5, 30))
    seconds = cache.measure([*NETS, NETS[0]])
    assert seconds.tolist() == [*range(1, len(NETS) + 1), 1]


def test_without_measurements_unknown_networks_have_no_latency(tmp_path):
    setting = setting_of(1, "fp32")
    LatencyCache(tmp_path / "a.jsonl", setting, lambda spec: Latency(2.0, 0.5, 30)).measure(NETS[:2])
    cache = LatencyCache(tmp_path / "a.jsonl", setting)
    seconds = cache.measure(NETS[:3])
    assert seconds[:2].tolist() == [2, 2] and np.isnan(seconds[2])
    assert cache.get(NETS[0]) == Latency(2.0, 0.5, 30) and cache.get(NETS[2]) is None


def test_a_stop_request_keeps_what_was_measured(tmp_path):
    measured = []

    def measure_one(spec):
        measured.append(spec)
        if len(measured) == CHUNK + 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return Latency(len(measured), 0.5, 30)

    path, setting = tmp_path / "a.jsonl", setting_of(1, "fp32")
    with preemption.catch_signals(), pytest.raises(Preempted, match="measured latencies are saved"):
        LatencyCache(path, setting, measure_one).measure(NETS)
    assert len(measured) == CHUNK + 2 == len(path.read_text().splitlines())
    with preemption.catch_signals():
        assert LatencyCache(path, setting, measure_one).measure(NETS).tolist() == [*range(1, len(NETS) + 1)]
