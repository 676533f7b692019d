"""Parts of the estimates for many GPUs against two real ranks: collectives, checkpoints, scores."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks import scale_model as model
from tests.benchmarks.scale_ranks import BATCH, CANDIDATES, IMAGES, STAGES
from tests.helpers.launching import command, environment, start_process, wait_for_process


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """Bytes and counts of a job of two ranks."""
    out = tmp_path_factory.mktemp("scale") / "out.json"
    line = [*command("torchrun", 2), "-m", "tests.benchmarks.scale_ranks", str(out)]
    wait_for_process(start_process(line, environment()), line, 180)
    return json.loads(out.read_text())


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
