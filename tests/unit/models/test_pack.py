"""Pack and scatter: adjoint for random networks, gradients as in autograd, unused elements stay zero."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.strategies import spaces_and_specs
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.models.channels import SIDES
from vitas_ds.models.flat import named_tensors
from vitas_ds.models.pack import _allocate, pack
from vitas_ds.models.plan import Part, Source, whole_axis
from vitas_ds.models.supernet import Supernet

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


def pack_subnet(supernet: Supernet, spec, sides, multiple: int, class_token_only: bool, dtype: torch.dtype):
    """Return the packed tensors of all parts, and the sources."""
    stored = supernet.stored(spec, tuple(sides), class_token_only, multiple)
    sources = [list(s.sources()) for s in stored]
    packed = pack([s.part for s in stored], sources, dtype)
    return [t for part in packed for t in part.values()], [p for group in sources for p in group]


@settings(max_examples=60, deadline=None)
@given(
    spaces_and_specs(), st.sampled_from(sorted(SIDES)), st.sampled_from((0, 1, 2)), st.sampled_from((1, 8, 16)),
    st.booleans(), st.sampled_from(sorted(TOLERANCE, key=str)), st.integers(0, 99),
)  # fmt: skip
def test_pack_and_scatter_are_adjoint(space_and_spec, rule, mode, multiple, class_token_only, dtype, seed):
    """``<pack(w), g> == <w, scatter(g)>``."""
    space, spec = space_and_spec
    torch.manual_seed(seed)
    supernet = Supernet(space, rule, mode).to(torch.float64 if dtype == torch.float64 else torch.float32)
    with torch.no_grad():
        for tensor in named_tensors(supernet).values():
            tensor.normal_()
    packed, sources = pack_subnet(supernet, spec, supernet.sides, multiple, class_token_only, dtype)
    grads = [torch.randn_like(t) for t in packed]
    scattered = torch.autograd.grad(packed, sources, grads)
    left = sum((t.detach().double() * g.double()).sum() for t, g in zip(packed, grads, strict=True))
    right = sum((p.detach().double() * g.double()).sum() for p, g in zip(sources, scattered, strict=True))
    scale = sum((t.detach().double().norm() * g.double().norm()) for t, g in zip(packed, grads, strict=True))
    assert abs(left - right) <= TOLERANCE[dtype] * scale
    assert all(g.dtype == p.dtype and g.shape == p.shape for g, p in zip(scattered, sources, strict=True))


@settings(max_examples=30, deadline=None)
@given(spaces_and_specs(), st.sampled_from(sorted(SIDES)), st.sampled_from((1, 8)))
def test_scatter_adds_the_sides(space_and_spec, rule, multiple):
    """With gradients of ones, each element of a parameter gets the number of its packed copies."""
    space, spec = space_and_spec
    supernet = Supernet(space, rule, 2)
    together, sources = pack_subnet(supernet, spec, supernet.sides, multiple, False, torch.float32)
    counts = torch.autograd.grad(together, sources, [torch.ones_like(t) for t in together])
    total = [torch.zeros_like(p) for p in sources]
    for side in supernet.sides:
        alone, sources = pack_subnet(supernet, spec, [side], 1, False, torch.float32)
        for sum_, g in zip(
            total, torch.autograd.grad(alone, sources, [torch.ones_like(t) for t in alone]), strict=True
        ):
            assert ((g == 0) | (g == 1)).all()  # one side uses an element at most once
            sum_ += g
    assert all(torch.equal(a, b) for a, b in zip(counts, total, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_keep_the_dtype_of_the_parameters(dtype):
    space = SearchSpace(
        image_size=16, num_classes=5, patch_sizes=(8,), embed_dim=20, depth=1, num_heads=(1,), qkv_dim=60
    )
    supernet = Supernet(space, "bilateral", 0)
    spec = SubnetSpec(16, 8, 10, 5, (LayerSpec(1, 60, 144),))
    stored = supernet.stored(spec, ("left", "right"), multiple=8)
    for part in pack([s.part for s in stored], [s.sources() for s in stored], dtype):
        for name, tensor in part.items():
            assert tensor.dtype == (torch.float32 if name.startswith("norm") else dtype), name
            assert len(tensor) == 2 and tensor.is_contiguous()


def test_tensors_without_a_gradient_are_skipped():
    a = torch.ones(6, requires_grad=True)
    part = Part()
    part.vector("x", [Source(0, 0, 0)], whole_axis(3, 1))
    part.vector("y", [Source(0, 3, 0)], whole_axis(3, 1))
    (packed,) = pack([part], [[a]], torch.float32)
    packed["y"].sum().backward()
    assert a.grad.tolist() == [0, 0, 0, 1, 1, 1]


def test_tensors_of_a_gpu_buffer_are_aligned():
    """A bias not aligned to 16 bytes can crash cublasLt. Device meta takes the same path."""
    shapes = [((2, 24), torch.float32), ((2, 7, 3), torch.bfloat16), ((2, 13), torch.float32), ((1, 5), torch.bfloat16)]
    tensors = _allocate(shapes, torch.device("meta"), zero=True)
    assert [(tuple(t.shape), t.dtype) for t in tensors] == shapes
    assert all(t.storage_offset() * t.element_size() % 128 == 0 for t in tensors)
    assert tensors[0].untyped_storage().nbytes() == (64 + 64) * 4  # one buffer for each dtype
