"""Build and serialize the GPU graph of each recipe without a GPU.

This finds unknown arguments, GPU data given to CPU operators, and GPU data in named arguments. It does not check
values: the other tests run the same graph functions on the CPU, including the resize of the GPU graph
(test_augment.py), and tests/gpu compares both devices if there is a GPU.

Reference: DALI's own checks while it builds and serializes a graph.
"""

from dataclasses import replace

import pytest

from vitas_ds.config import Augment
from vitas_ds.data import dali

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RECIPES = {
    "evaluation": dali.Recipe(224, MEAN, STD, resize=256),
    "evaluation with borders": dali.Recipe(224, MEAN, STD, resize=224),
    "cache": dali.Recipe(224, MEAN, STD, resize=256, uint8=True),
    "weak": dali.Recipe(224, MEAN, STD, augment=Augment()),
    "jitter": dali.Recipe(224, MEAN, STD, augment=Augment(color_jitter=0.4)),
    "deit": dali.Recipe(224, MEAN, STD, augment=Augment(rand_augment="rand-m9-mstd0.5-inc1", aug_repeats=3)),
    "full": dali.Recipe(224, MEAN, STD, augment=Augment(rand_augment="rand-m9-mstd0.5-inc1", color_jitter=0.4)),
}
MOST_OPERATORS = {"weak": 50, "jitter": 75, "deit": 130, "full": 150}


def serialized_messages(buffer: bytes, field: int) -> list[bytes]:
    """Return the messages in a field of a protocol buffer."""
    found, at = [], 0

    def number() -> int:
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = buffer[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(buffer):
        key = number()
        assert key & 7 in (0, 2), "only numbers and messages are expected"
        value = number()
        if key & 7 == 2:
            if key >> 3 == field:
                found.append(buffer[at : at + value])
            at += value
    return found


@pytest.mark.parametrize("source", ["file", "bytes"])
@pytest.mark.parametrize("name", RECIPES)
def test_gpu_graph_serializes(name, source):
    graph = dali.build(replace(RECIPES[name], source=source), lambda: [], 8, 2, None, device="gpu").serialize()
    assert b"mixed" in graph and b"gpu" in graph and b"Python" not in graph


@pytest.mark.parametrize("name", MOST_OPERATORS)
def test_number_of_operators(name):
    pipe = dali.build(RECIPES[name], lambda: [], 8, 2, None, device="gpu")
    operators = serialized_messages(pipe.serialize(), field=5)
    assert len(operators) == len(pipe._ops) <= MOST_OPERATORS[name]


def test_host_decoder_feeds_gpu_operators():
    for name in ("evaluation", "full"):
        graph = dali.build(replace(RECIPES[name], decoder="host"), lambda: [], 8, 2, None, device="gpu").serialize()
        assert b"mixed" not in graph and b"gpu" in graph and b"ImageSlice" in graph


@pytest.mark.parametrize("name", RECIPES)
def test_cpu_graph_has_no_gpu_operator(name):
    graph = dali.build(RECIPES[name], lambda: [], 8, 2, None).serialize()
    assert b"mixed" not in graph and b"gpu" not in graph and b"Python" not in graph
