"""Choice of the runtime and its precision, and refused settings."""

import pytest

from vitas_ds.config import Search
from vitas_ds.errors import UserError
from vitas_ds.search.latency import limits
from vitas_ds.search.latency.limits import choose_runtime


@pytest.mark.parametrize(
    ("fields", "device", "expected"),
    [
        ({}, "cuda", ("cuda-graph", "bf16")),
        ({}, "cpu", ("onnxruntime", "fp32")),
        ({"latency_precision": "fp32"}, "cpu", ("onnxruntime", "fp32")),
        ({"latency_precision": "bf16"}, "cpu", ("torch", "bf16")),
        ({"latency_runtime": "torch"}, "cpu", ("torch", "bf16")),
        ({"latency_runtime": "torch", "latency_precision": "fp16"}, "cuda", ("torch", "fp16")),
        ({"latency_runtime": "onnxruntime"}, "cuda", ("onnxruntime", "fp32")),
    ],
)
def test_the_runtime_and_its_precision(fields, device, expected):
    assert choose_runtime(Search(**fields), "bf16", device) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latency_runtime": "cuda-graph"}, r"search\.latency_runtime: cuda-graph needs a GPU; use .*latency_table"),
        (
            {"latency_runtime": "onnxruntime", "latency_precision": "bf16"},
            r"search\.latency_precision: onnxruntime computes in fp32 on the CPU, not bf16; remove",
        ),
        ({"latency_precision": "fp16"}, r"search\.latency_precision: fp16 needs a GPU"),
    ],
)
def test_what_a_runtime_cannot_do_is_an_error(fields, message):
    with pytest.raises(UserError, match=message) as error:
        choose_runtime(Search(**fields), "bf16", "cpu")
    assert "\n" not in str(error.value)


def test_a_missing_runtime(monkeypatch):
    """A package that does not exist stands for a missing one."""
    monkeypatch.setattr(limits, "ONNX_PACKAGES", ("onnx", "no_such_runtime"))
    assert choose_runtime(Search(), "bf16", "cpu") == ("torch", "bf16")
    with pytest.raises(UserError, match=r"onnxruntime needs no_such_runtime, not installed; pip install") as error:
        choose_runtime(Search(latency_runtime="onnxruntime"), "fp32", "cpu")
    assert "\n" not in str(error.value)
