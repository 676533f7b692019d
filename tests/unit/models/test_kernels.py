"""Kernels of the packed slices, in Triton's interpreter and compiled for several GPUs, and the same in plain torch.

References: the definition of a region, element by element, and autograd of torch's layer_norm without padding.
"""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers import kernel_cases as cases
from vitas_ds.errors import UserError
from vitas_ds.models import kernels, plan
from vitas_ds.models import kernels_reference as reference

pytest.importorskip("triton")
CPU, EPS = torch.device("cpu"), 1e-6


@pytest.fixture(scope="module")
def interpret():
    with cases.interpreter() as run:
        yield run


@pytest.fixture(scope="module", params=["torch", "kernel"])
def run(request):
    """Call one of the operators: its implementation for CPUs, or its kernel. Return the result and the arguments."""
    if request.param == "torch":
        return lambda name, *args: (getattr(kernels.OPS, name).default(*args), args)
    interpret = request.getfixturevalue("interpret")
    return lambda name, *args: interpret(getattr(kernels, f"launch_{name}"), *args)


def test_importing_the_module_does_not_import_triton():
    code = "import sys; sys.modules['triton'] = None; import vitas_ds.models.kernels"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Triton's interpreter truncates to bf16, but it rounds to fp16
@pytest.mark.parametrize("seed", range(5))
def test_pack_copies_and_converts_each_element(run, seed):
    case = cases.copy_case(seed)
    sources, tensors = case.sources(), case.tensors(torch.float16)
    expected = [t.clone() for t in tensors]
    for source, i, tensor, j in case.elements():
        expected[tensor][j] = sources[source][i]
    _, (*_, tensors) = run("pack", sources, *kernels.upload(case.regions, CPU), tensors)
    assert all(torch.equal(t, e) for t, e in zip(tensors, expected, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_scatter_adds_each_element_in_fp32(run, seed):
    case = cases.copy_case(seed)
    sources, tensors = [torch.zeros(n) for n in case.source_sizes], case.tensors(torch.float16)
    tensors[seed % cases.NUM_TENSORS] = None
    expected = [s.clone() for s in sources]
    for source, i, tensor, j in case.elements():
        if tensors[tensor] is not None:
            expected[source][i] += tensors[tensor][j].float()
    _, (*_, sources) = run("scatter", tensors, *kernels.upload(case.regions, CPU), sources)
    assert all(torch.equal(s, e) for s, e in zip(sources, expected, strict=True))


@pytest.mark.parametrize("sides", [("left", "right"), ("cycle",)])
def test_kernel_follows_a_plan_with_padded_heads(interpret, sides):
    """Reference: torch, which test_plan.py compares with index lists."""
    heads, columns = (plan.axis(sides, 15, (5, 10, 15, 20), d, 8) for d in (5, 0))
    part = plan.Part()
    part.matrix("qkv", [plan.Source(0, i * 400, 20) for i in range(3)], heads, columns)
    part.vector("bias", [plan.Source(0, 1200 + i * 20, 0) for i in range(3)], heads)
    source, expected = torch.randn(1260), [torch.zeros(shape) for shape in part.shapes.values()]
    reference.pack([source], part.table, None, expected)
    packed = [torch.zeros(shape) for shape in part.shapes.values()]
    _, (*_, packed) = interpret(kernels.launch_pack, [source], *kernels.upload(part.table, CPU), packed)
    assert part.is_padded and all(torch.equal(a, b) for a, b in zip(packed, expected, strict=True))


def test_tiles_cover_each_region_once():
    regions = np.zeros((4, len(plan.COLUMNS)), np.int64)
    regions[:, 6:8] = [[17, 257], [0, 5], [1, 1], [8, 512]]
    expected = [(region, tile) for region, count in enumerate([3 * 2, 0, 1, 2]) for tile in range(count)]
    assert [*map(tuple, kernels.tile_regions(regions).tolist())] == expected


def test_without_regions_nothing_changes(run):
    tables = kernels.upload(np.zeros((0, len(plan.COLUMNS)), np.int64), CPU)
    _, (*_, tensors) = run("pack", [torch.ones(1)], *tables, [torch.zeros(1)])
    assert tensors == [torch.zeros(1)]


SHAPES = [(1, 1, 8, 8), (2, 21, 24, 19), (2, 5, 432, 430), (1, 300, 8, 1), (1, 3, 2048, 2041)]


def layer_norm(case, x, weight, bias):
    """Return torch's layer_norm of each side in fp64, without padding."""
    width, dim = x.shape[2], case.dim
    x, weight, bias = (t[..., :dim].double() for t in (x, weight, bias))
    normed = [nn.functional.layer_norm(x[s], (dim,), weight[s], bias[s], EPS) for s in range(len(x))]
    return nn.functional.pad(torch.stack(normed), (0, width - dim)).float()


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_norm_matches_torch(run, shape):
    case = cases.norm_case(*shape)
    (total, normed), _ = run("add_norm", case.x, case.y, case.weight, case.bias, case.dim, EPS)
    assert torch.equal(total, case.x + case.y)
    assert_close(normed, layer_norm(case, total, case.weight, case.bias))
    assert not normed[..., case.dim :].any()
    again, _ = run("norm", total, case.weight, case.bias, case.dim, EPS)
    assert torch.equal(again, normed)


@pytest.mark.parametrize("with_total", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_the_norm_match_autograd(run, shape, with_total):
    case = cases.norm_case(*shape)
    grad_total = case.grad_total if with_total else None
    (grad, parts), _ = run("add_norm_backward", case.x, case.weight, case.grad_normed, grad_total, case.dim, EPS)
    inputs = [t.clone().requires_grad_() for t in (case.x, case.weight, case.bias)]
    expected, *expected_weights = torch.autograd.grad(layer_norm(case, *inputs), inputs, case.grad_normed)
    assert_close(grad, expected + case.grad_total if with_total else expected)
    assert_close(parts.sum(0), torch.stack(expected_weights))
    assert not grad[..., case.dim :].any() and not parts[..., case.dim :].any()


def test_norm_takes_more_dimensions_and_any_strides(run):
    case = cases.norm_case(2, 21, 24, 19)
    strided = [t.view(2, 3, 7, 24).transpose(1, 2) for t in (case.x, case.y, case.grad_normed, case.grad_total)]
    for tensors in (strided, [t.reshape(2, 21, 24) for t in strided]):
        x, y, grad_normed, grad_total = tensors
        (total, normed), _ = run("add_norm", x, y, case.weight, case.bias, case.dim, EPS)
        (grad, parts), _ = run("add_norm_backward", x, case.weight, grad_normed, grad_total, case.dim, EPS)
        assert {total.shape, normed.shape, grad.shape} == {x.shape}
        if tensors is strided:
            first = total, normed, grad, parts
    for a, b in zip(first, (total, normed, grad, parts), strict=True):
        assert torch.equal(a.reshape(b.shape), b)


def test_padding_does_not_change_the_norm(run):
    """The statistics and the gradients ignore it, even NaN."""
    case = cases.norm_case(2, 21, 24, 19)
    forward = "add_norm", case.x, case.y, case.weight, case.bias, case.dim, EPS
    backward = "add_norm_backward", case.x, case.weight, case.grad_normed, None, case.dim, EPS
    ((_, normed), _), (gradients, _) = run(*forward), run(*backward)
    for t in (case.x, case.weight, case.bias, case.grad_normed):
        t[..., case.dim :] = torch.nan
    ((_, normed_again), _), (gradients_again, _) = run(*forward), run(*backward)
    for t, again in zip((normed, *gradients), (normed_again, *gradients_again), strict=True):
        assert torch.equal(t, again)


@pytest.mark.parametrize("shape", [(2, 21, 2048, 2041), (1, 1000, 248, 240)])
def test_programs_with_several_blocks_sum_all_rows(interpret, shape):
    case = cases.norm_case(*shape)
    args = case.x, case.weight, case.grad_normed, case.grad_total, case.dim, EPS
    (grad, parts), _ = interpret(cases.with_few_programs, kernels.launch_add_norm_backward, *args)
    expected, expected_parts = reference.add_norm_backward(*args)
    assert len(parts) == 4 // shape[0]
    assert_close(grad, expected)
    torch.testing.assert_close(parts.sum(0), expected_parts[0], atol=1e-4, rtol=1e-5)


class Log(TorchDispatchMode):
    """Names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))


def test_each_function_is_one_operator():
    """Fake tensors of a GPU, as for the measurement of memory without one."""
    with FakeTensorMode(), torch.no_grad(), torch.device("cuda"):
        x, weight, source = (
            torch.empty(2, 9, 24, dtype=torch.bfloat16),
            torch.empty(2, 24),
            nn.Parameter(torch.empty(4)),
        )
        tables = kernels.Tables(torch.empty(1, 14, dtype=torch.int64), torch.empty(1, 2, dtype=torch.int64))
        with Log() as log:
            kernels.pack([source], tables, [x])
            kernels.scatter([x, None], tables, [source])
            total, normed = kernels.add_norm(x, x, weight, weight, 20, EPS)
            assert kernels.add_norm(x, None, weight, weight, 20, EPS)[0] is x
            grad, parts = kernels.add_norm_backward(x, weight, x, None, 20, EPS)
    assert log.names == [f"vitas_ds::{name}" for name in ("pack", "scatter", "add_norm", "norm", "add_norm_backward")]
    assert {(t.shape, t.dtype, t.device) for t in (total, normed, grad)} == {(x.shape, x.dtype, x.device)}
    assert parts.shape[1:] == (2, 2, 24) and parts.dtype == torch.float32 and parts.device == x.device


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_without_data_are_those_of_the_kernel(interpret, shape):
    case = cases.norm_case(*shape)
    args = case.x, case.weight, case.grad_normed, None, case.dim, EPS
    (grad, parts), _ = interpret(kernels.launch_add_norm_backward, *args)
    fake = kernels.add_norm_backward(*(t.to("meta") if torch.is_tensor(t) else t for t in args))
    assert [t.shape for t in fake] == [grad.shape, parts.shape]


class Target:
    """A driver of Triton for a GPU that this machine does not have."""

    launcher_cls = None

    def __init__(self, capability):
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return self.target.arch  # kernels are cached per device

    def get_current_stream(self, device):
        return 0


class Compiler:
    """Compiles a kernel for the arguments of each launch instead of launching it."""

    def __init__(self, kernel):
        self.kernel, self.compiled = kernel, []

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.compiled.append(self.kernel.warmup(*args, grid=grid, **kwargs))


@pytest.fixture
def compilers(capability, monkeypatch, tmp_path):
    """Replace the kernels by compilers for a GPU of a compute capability."""
    from triton.runtime.driver import driver

    from vitas_ds.models import kernels_triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    found = [Compiler(getattr(kernels_triton, f"{name}_kernel")) for name in ("copy", "norm", "norm_backward")]
    for compiler in found:
        monkeypatch.setattr(kernels_triton, compiler.kernel.__name__, compiler)
    monkeypatch.setattr(driver, "_active", Target(capability))
    return found


@pytest.mark.parametrize(
    "capability", [pytest.param(80, marks=pytest.mark.slow), 90, pytest.param(100, marks=pytest.mark.slow)]
)
def test_kernels_compile_for_a_gpu(capability, compilers):
    case = cases.copy_case(0)
    tables, sources = kernels.upload(case.regions, CPU), case.sources()
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        kernels.launch_pack(sources, *tables, case.tensors(dtype))
        kernels.launch_scatter(case.tensors(dtype), *tables, sources)
        n = cases.norm_case(2, 9, 432, 430).to(CPU, dtype)
        kernels.launch_add_norm(n.x, n.y, n.weight, n.bias, n.dim, EPS)
        kernels.launch_norm(n.x, n.weight, n.bias, n.dim, EPS)
        kernels.launch_add_norm_backward(n.x, n.weight, n.grad_normed, n.grad_total, n.dim, EPS)
        kernels.launch_add_norm_backward(n.x, n.weight, n.grad_normed, None, n.dim, EPS)
    assert [len(c.compiled) for c in compilers] == [6, 6, 6]
    for kernel in (kernel for c in compilers for kernel in c.compiled):
        assert kernel.metadata.target.arch == capability and kernel.asm["cubin"].startswith(b"\x7fELF")


def test_triton_needs_a_c_compiler(monkeypatch):
    monkeypatch.setattr(kernels, "_mode", "auto")
    kernels.select("triton")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    assert kernels.triton_problem() == "triton needs a C compiler, such as gcc"
    kernels.select("auto")  # warns at the first use on CUDA, and uses torch
    with pytest.raises(UserError, match=r"engine\.kernels: triton needs a C compiler.*engine\.kernels=torch"):
        kernels.select("triton")
