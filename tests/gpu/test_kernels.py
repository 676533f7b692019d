"""The Triton kernels on a GPU, with half precision and large tensors, which the tests without a GPU leave out.

References: the same in plain torch, and a second run.
"""

import numpy as np
import pytest
import torch

from tests.helpers import kernel_cases as cases
from vitas_ds.models import kernels
from vitas_ds.models import kernels_reference as reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA, EPS = torch.device("cuda"), 1e-6
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
HUGE = 2**31  # elements: more than an int32 counts


def to_cuda(tensors):
    return [t.to(CUDA) for t in tensors]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(3))
def test_pack_equals_the_copy_of_torch(seed, dtype):
    case = cases.copy_case(seed, matrices=20, rows=300, columns=1100)
    tables, sources = kernels.upload(case.regions, CUDA), to_cuda(case.sources())
    found, expected = (to_cuda(case.tensors(dtype)) for _ in range(2))
    kernels.pack(sources, tables, found)
    reference.pack(sources, *tables, expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(3))
def test_scatter_equals_the_sum_of_torch_and_repeats_bitwise(seed, dtype):
    case = cases.copy_case(seed, matrices=20, rows=300, columns=1100)
    tables, tensors = kernels.upload(case.regions, CUDA), to_cuda(case.tensors(dtype))
    tensors[seed] = None
    expected, *found = ([torch.zeros(n, device=CUDA) for n in case.source_sizes] for _ in range(5))
    reference.scatter(tensors, *tables, expected)
    for sources in found:
        kernels.scatter(tensors, tables, sources)
        assert all(torch.equal(a, b) for a, b in zip(sources, expected, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 64, 8, 5), (2, 5000, 232, 230), (2, 12000, 1008, 1008), (1, 3001, 2048, 2041)])
def test_norm_matches_torch_and_repeats_bitwise(shape, dtype):
    case = cases.norm_case(*shape).to(CUDA, dtype)
    tolerance = {"atol": 1e-5, "rtol": 1e-5 if dtype == torch.float32 else 1.6e-2}
    inputs = case.x, case.y, case.weight, case.bias, case.dim, EPS
    first, *others = (kernels.add_norm(*inputs) for _ in range(3))
    total, normed = reference.add_norm(*inputs)
    assert torch.equal(first[0], total)
    torch.testing.assert_close(first[1], normed, **tolerance)
    assert torch.equal(kernels.add_norm(total, None, *inputs[2:])[1], first[1])

    inputs = total, case.weight, case.grad_normed, case.grad_total, case.dim, EPS
    first_grads, *other_grads = (kernels.add_norm_backward(*inputs) for _ in range(3))
    grad, parts = reference.add_norm_backward(*inputs)
    torch.testing.assert_close(first_grads[0], grad, **tolerance)
    torch.testing.assert_close(first_grads[1].sum(0), parts.sum(0), atol=1e-3, rtol=1e-4)
    for again in [(*a, *b) for a, b in zip(others, other_grads, strict=True)]:
        assert all(torch.equal(a, b) for a, b in zip(again, (*first, *first_grads), strict=True))


@pytest.fixture
def huge_memory():
    if torch.cuda.mem_get_info()[0] < 36e9:
        pytest.skip("needs 36 GB of GPU memory")
    yield
    torch.cuda.empty_cache()


def test_copies_reach_elements_beyond_int32(huge_memory):
    regions = np.array([[0, HUGE - 5, 20, 0, HUGE + 3, 13, 7, 11, 2**30, 0, 0, 2**30, 0, 0]])
    tables, block = kernels.upload(regions, CUDA), torch.arange(1.0, 78.0, device=CUDA).view(7, 11)
    source, tensor = torch.zeros(HUGE + 200, device=CUDA), torch.zeros(HUGE + 200, dtype=torch.bfloat16, device=CUDA)
    source[HUGE - 5 :].as_strided((7, 11), (20, 1)).copy_(block)
    kernels.pack([source], tables, [tensor])
    assert torch.equal(tensor[HUGE + 3 :].as_strided((7, 11), (13, 1)).float(), block)
    kernels.scatter([tensor], tables, [source])
    assert torch.equal(source[HUGE - 5 :].as_strided((7, 11), (20, 1)), 2 * block)


def test_norm_of_more_elements_than_int32(huge_memory):
    rows = HUGE // 2 // 1024 + 8
    x = torch.zeros(2, rows, 1024, dtype=torch.bfloat16, device=CUDA)
    weight, bias = (torch.randn(2, 1024, device=CUDA) for _ in range(2))
    x[:, -8:] = torch.randn(2, 8, 1024, device=CUDA)
    total, normed = kernels.add_norm(x, x, weight, bias, 1024, EPS)
    grad, _ = kernels.add_norm_backward(total, weight, x, x, 1024, EPS)
    x, total, normed, grad = (t[:, -8:].clone() for t in (x, total, normed, grad))
    for found, expected in (
        ((total, normed), reference.add_norm(x, x, weight, bias, 1024, EPS)),
        ((grad,), reference.add_norm_backward(total, weight, x, x, 1024, EPS)[:1]),
    ):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1.6e-2)
