"""Estimates for many GPUs: the page, the parts of the model against real ranks, and the simulated search."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks import scale
from tests.benchmarks import scale_model as model
from tests.benchmarks.scale_ranks import BATCH, CANDIDATES, IMAGES, STAGES
from tests.benchmarks.scale_simulation import DETECTION, Cluster, simulate
from tests.helpers.launching import command, environment, start_process, wait_for_process


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """Bytes and counts of a job of two ranks."""
    out = tmp_path_factory.mktemp("scale") / "out.json"
    line = [*command("torchrun", 2), "-m", "tests.benchmarks.scale_ranks", str(out)]
    wait_for_process(start_process(line, environment()), line, 180)
    return json.loads(out.read_text())


@pytest.mark.parametrize("name", scale.TABLES)
def test_the_page_contains_the_table(name):
    page = scale.PAGE.read_text()
    assert scale.insert(page, name, scale.TABLES[name]()) == page
    assert len(re.findall(rf"<!-- table: {name} -->", page)) == 1


def check_bytes(step, expected):
    sent = {name: size for name, size in step["collectives"].items() if name != "broadcast"}
    assert sent.keys() == expected.keys()
    for name, size in expected.items():
        assert size <= sent[name] <= size + 1024, name  # padding to equal parts
    assert step["collectives"].get("broadcast", 0) <= 1000  # ZeRO 3 compares the ids of the parameters


@pytest.mark.parametrize("zero", STAGES[:3])
def test_bytes_of_a_step(counted, zero):
    parameters = counted["training"][zero]["parameters"]
    for step in counted["training"][zero]["steps"]:
        assert 0 < step["used"] < step["gathered"] < parameters
        check_bytes(step, model.collectives(int(zero[4]), parameters, step["used"]))


@pytest.mark.parametrize("zero", STAGES[3:])
def test_bytes_of_a_step_of_zero_3(counted, zero):
    """The model is an upper bound, which the first step reaches. Later steps may find layers gathered already."""
    parameters, steps = (counted["training"][zero][name] for name in ("parameters", "steps"))
    # all parameters of this small network are below the threshold of zero3.json
    small = parameters if zero == "zero3" else 0
    most = [model.collectives(3, parameters, step["used"], step["gathered"], small) for step in steps]
    check_bytes(steps[0], most[0])
    sent = steps[1]["collectives"]["allgather_base"]
    assert max(model.FP32 * small, model.FP32 * steps[1]["gathered"] * (not small)) < sent
    assert sent < most[1]["allgather_base"]


@pytest.mark.parametrize("zero", STAGES)
def test_bytes_of_a_checkpoint(counted, zero):
    found = counted["training"][zero]
    writers = 1 if zero == "zero0" else 2
    sizes = list(found["files"].values())
    assert len(sizes) == writers
    for size in sizes:
        assert 0 <= size - 3 * model.FP32 * found["parameters"] / writers < 0.05 * size  # names and shapes


def test_work_and_bytes_of_a_generation(counted):
    for group in (1, 2):
        found = counted["scoring"][str(group)]
        assert found["images"] == [model.score_images(CANDIDATES, IMAGES, BATCH, 2, group)] * 2
        assert sum(found["images"]) == CANDIDATES * IMAGES
        assert found["collectives"] == {"allreduce": model.score_bytes(CANDIDATES, IMAGES, 2, group)}


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
