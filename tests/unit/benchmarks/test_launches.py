"""The counter of operator calls, and the counts of the training step against those in the repository."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from tests.benchmarks import bench_launches
from tests.benchmarks.call_counter import CallCounter, WaitCounter
from tests.benchmarks.fake_cuda import fake_cuda
from tests.helpers.paths import ROOT

STORED = "tests/benchmarks/results/launches.json"


def test_views_and_allocations_are_no_calls():
    with CallCounter() as counter:
        x = torch.empty(4, 6).view(6, 4)[2:].T.unsqueeze(0)
        x.contiguous()
    assert counter.calls == {"clone": 1}


def test_bytes_count_expanded_dimensions_once_and_overwritten_tensors_once():
    a, b = torch.ones(4, 8), torch.ones(1, 8).expand(4, 8)
    with CallCounter() as counter:
        a + b  # reads 32 and 8 elements, writes 32
        a.copy_(b)  # reads 8, writes 32
        a.add_(b)  # reads 32 and 8, writes 32
    assert counter.bytes == 4 * (72 + 40 + 72)


@pytest.mark.parametrize(
    ("m", "k", "n", "unaligned"), [(3, 8, 16, 0.0), (8, 12, 16, 1.0), (8, 16, 12, 1.0)], ids=["M", "K", "N"]
)
def test_products_are_unaligned_if_k_or_n_is_no_multiple_of_8(m, k, n, unaligned):
    a, b = torch.ones(m, k, dtype=torch.bfloat16), torch.ones(k, n, dtype=torch.bfloat16)
    with CallCounter() as counter:
        a @ b
        a.float() @ b.float()  # fp32 does not count
    assert counter.unaligned_flops == unaligned


def test_unaligned_rows_in_memory_count():
    a, b = torch.ones(8, 20, dtype=torch.bfloat16)[:, :16], torch.ones(16, 8, dtype=torch.bfloat16)
    with CallCounter() as counter:
        a @ b
    assert counter.unaligned_flops == 1.0


def test_reading_values_and_copying_lists_are_waits():
    x = torch.ones(3)
    with CallCounter() as calls, WaitCounter() as functions:
        x.sum().item()
        bool(x[0])
        x.tolist()
        torch.tensor([1.0], device=x.device)
        torch.tensor([1.0])
    assert calls.waits == 2
    assert functions.transfers == {"read": 1, "copy": 1}


def test_code_outside_of_torch_sees_cuda_and_its_autocast():
    with fake_cuda():
        x = torch.ones(2, 4, 12, device="cuda", requires_grad=True)
        w = torch.ones(12, 12, device=x.device, requires_grad=True)
        with torch.autocast(x.device.type, torch.bfloat16):
            assert torch.is_autocast_enabled("cuda")
            y = F.linear(x, w)
            normed = F.layer_norm(y, (12,))
        y.float().sum().backward()
        assert x.device.type == w.grad.device.type == "cuda" and x.is_cuda
        assert (y.dtype, normed.dtype) == (torch.bfloat16, torch.float32)
    assert torch.ones(1).device.type == "cpu" and not torch.is_autocast_enabled("cuda")


def test_attention_pads_heads_to_a_multiple_of_8():
    calls = {}
    for width in (16, 12):
        with fake_cuda(), CallCounter() as counter:
            q = torch.empty(2, 3, 5, width, dtype=torch.bfloat16)
            assert F.scaled_dot_product_attention(q, q, q).shape == q.shape
        calls[width] = dict(counter.calls)
    assert calls[16] == {"_scaled_dot_product_flash_attention": 1}
    assert calls[12] == {"_scaled_dot_product_flash_attention": 1, "constant_pad_nd": 3}


def test_comparison_names_counts_that_grew_by_more_than_2_percent():
    def result(graphs, calls):
        row = dict.fromkeys(bench_launches.COUNTS, 100) | {"rule": "plain", "patch": 16, "forward_backward": calls}
        return {"graphs": graphs, "rows": [row]}

    assert bench_launches.compare(result(2, 100), result(2, 102)) == []
    assert bench_launches.compare(result(2, 100), result(3, 90)) == ["graphs: 2 -> 3"]
    assert bench_launches.compare(result(2, 100), result(2, 103)) == ["plain 16 forward_backward: 100 -> 103"]


@pytest.mark.slow  # a minute
def test_training_step_has_not_more_calls_than_stored():
    command = [sys.executable, "-m", "tests.benchmarks.bench_launches", "--check", STORED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
