"""The supernet: executed MACs, exact extraction, gradients of the used slices only, private attention.

References: torch's FLOP counter, the extracted plain network, and sums and masks by hand.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.helpers.strategies import spaces, spaces_and_specs
from tests.helpers.supernets import SMALL, gradients, images, make
from vitas_ds.arch import genome
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.models.channels import SIDES
from vitas_ds.models.extract import extract, subnet_state_dict
from vitas_ds.models.flat import named_tensors
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.models.vit import VisionTransformer

RULES, MODES = sorted(SIDES), (0, 1, 2)


def same_on_any_cpu(together: torch.Tensor, alone: torch.Tensor, sides: int) -> None:
    """Check that a side computed together with others equals the side computed alone.

    Together, the side starts at another memory address. For widths that are not multiples of 64 bytes, as drawn here,
    the last bit of MKL's attention depends on the address on some CPUs, also for the plain networks of torch.
    """
    if sides == 1:
        assert torch.equal(together, alone)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def executed_macs(model: torch.nn.Module, *inputs) -> int:
    """Return half the FLOPs that torch counts. On a CPU, it counts attention only with the math backend."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


@settings(max_examples=30, deadline=None)
@given(spaces_and_specs(), st.sampled_from(RULES), st.sampled_from(MODES))
def test_executed_macs_equal_the_cost_on_every_side(space_and_spec, rule, mode):
    space, spec = space_and_spec
    supernet, x = make(space, rule, mode), images(space, 1)
    for side in supernet.sides:
        assert executed_macs(supernet, x, spec, [side]) == spec_macs(spec)
    assert executed_macs(supernet, x, spec) == len(supernet.sides) * spec_macs(spec)
    assert executed_macs(VisionTransformer(spec), x) == spec_macs(spec)
    assert spec_macs(genome.decode(space, genome.encode(space, spec))) == spec_macs(spec)


def test_an_identity_does_not_shift_the_widths_of_later_layers():
    a, b, c = LayerSpec(1, 6, 3), LayerSpec(2, 60, 30), LayerSpec(2, 24, 27)
    for layers in ((None, b, c), (a, None, c), (a, b, None), (None, None, c)):
        spec = SubnetSpec(16, 4, 10, 5, layers)
        shapes = {name: tuple(w.shape) for name, w in subnet_state_dict(make(SMALL), spec).items()}
        for i, layer in enumerate(spec.active):
            assert shapes[f"blocks.{i}.attn.qkv.weight"] == (layer.qkv_dim, 10)
            assert shapes[f"blocks.{i}.mlp.fc1.weight"] == (layer.mlp_dim, 10)
        assert executed_macs(make(SMALL), images(SMALL, 1), spec) == spec_macs(spec)


@settings(max_examples=60, deadline=None)
@given(spaces_and_specs(), st.sampled_from(RULES), st.sampled_from(MODES), st.integers(0, 99))
def test_supernet_and_extracted_network_are_bitwise_equal(space_and_spec, rule, mode, seed):
    space, spec = space_and_spec
    supernet, x = make(space, rule, mode, seed), images(space)
    with torch.no_grad():
        logits = supernet(x, spec)
        assert logits.shape == (len(supernet.sides), 2, space.num_classes)
        for side, together in zip(supernet.sides, logits, strict=True):
            alone = supernet(x, spec, [side])[0]
            assert torch.equal(extract(supernet, spec, side)(x), alone)
            same_on_any_cpu(together, alone, len(supernet.sides))
        assert torch.equal(extract(supernet, spec)(x), supernet(x, spec, supernet.sides[:1])[0])


@pytest.mark.parametrize("rule", RULES)
def test_supernet_and_extracted_network_are_bitwise_equal_at_full_size(rule):
    space = SearchSpace(depth=2)
    supernet = make(space, rule)
    spec = SubnetSpec(224, 32, 230, 1000, (LayerSpec(12, 1008, 720), LayerSpec(16, 432, 1296)))
    x = images(space)
    with torch.no_grad():
        for side, expected in zip(supernet.sides, supernet(x, spec), strict=True):
            assert torch.equal(extract(supernet, spec, side)(x), expected)


def used_elements(supernet: Supernet, spec: SubnetSpec, side: str) -> dict[str, torch.Tensor]:
    """Return a mask of each parameter: the elements whose values appear in the extracted network.

    Every element has a unique value. This relies only on the extraction, which the equality of logits verifies.
    """
    total, tensors = 0, named_tensors(supernet)
    saved = [p.detach().clone() for p in tensors.values()]
    with torch.no_grad():
        for weight in tensors.values():
            weight.copy_(torch.arange(total, total + weight.numel()).reshape(weight.shape))
            total += weight.numel()
    assert total < 2**24  # exact in float32
    seen = torch.zeros(total, dtype=torch.bool)
    for value in subnet_state_dict(supernet, spec, side).values():
        seen[value.detach().long().flatten()] = True
    pieces = seen.split([p.numel() for p in tensors.values()])
    with torch.no_grad():
        for weight, value in zip(tensors.values(), saved, strict=True):
            weight.copy_(value)
    return {name: piece.reshape(p.shape) for (name, p), piece in zip(tensors.items(), pieces, strict=True)}


@settings(max_examples=60, deadline=None)
@given(spaces_and_specs(), st.sampled_from(RULES), st.sampled_from(MODES))
def test_gradients_are_nonzero_in_the_used_slices_only(space_and_spec, rule, mode):
    space, spec = space_and_spec
    supernet, x = make(space, rule, mode), images(space, 3)
    for side in supernet.sides:
        supernet.zero_grad()
        supernet(x, spec, [side]).square().sum().backward()
        used = used_elements(supernet, spec, side)
        grads = gradients(supernet)
        for name in named_tensors(supernet):
            if name not in grads:
                assert not used[name].any(), name
                continue
            assert used[name].any(), name
            assert (grads[name][~used[name]] == 0).all(), name
        units = supernet.units()
        units_with_grad = {unit for unit, group in units.items() if any(p.grad is not None for p in group)}
        assert units_with_grad == supernet.units_used(spec)
        for unit in units_with_grad:
            assert all(p.grad is not None for p in units[unit]), unit


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mode", MODES)
def test_every_used_element_gets_a_gradient(rule, mode):
    """No gradient of a smooth network with random weights is 0, except that of k's bias, which softmax cancels."""
    spec = SubnetSpec(16, 4, 10, 5, (LayerSpec(2, 30, 15), None, LayerSpec(1, 42, 21)))
    supernet = make(SMALL, rule, mode).double()
    for side in supernet.sides:
        supernet.zero_grad()
        supernet(images(SMALL, 3).double(), spec, [side]).square().sum().backward()
        grads = gradients(supernet)
        for name, used in used_elements(supernet, spec, side).items():
            if used.any() and ".attn.k" not in name.replace("_weight", ""):
                assert (grads[name][used] != 0).all(), name


@pytest.mark.parametrize("patch", [14, 16, 32])
def test_only_the_stem_of_the_patch_size_gets_gradients(patch):
    space = SearchSpace(depth=1)
    supernet = make(space)
    spec = SubnetSpec(224, patch, 38, 1000, (LayerSpec(3, 144, 144),))
    supernet(images(space, 1), spec).square().sum().backward()
    for size in space.patch_sizes:
        for name in ("weight", "bias", "cls_token", "pos_embed"):
            grad = gradients(supernet).get(f"stems.patch{size}.{name}")
            has_gradient = grad is not None and grad.abs().sum() > 0
            assert has_gradient == (size == patch), (size, name)


def test_tokens_have_positions():
    """Swapping patches changes the logits, but not if all tokens have the same position embedding."""
    spec = SubnetSpec(16, 8, 20, 5, (LayerSpec(2, 60, 30),))
    supernet, x = make(SMALL), images(SMALL)
    swapped = torch.cat([x[:, :, 8:], x[:, :, :8]], 2)
    assert not torch.allclose(supernet(x, spec), supernet(swapped, spec), atol=1e-3)
    pos = named_tensors(supernet)["stems.patch8.pos_embed"]
    assert pos.shape == (1, 5, 20)
    with torch.no_grad():
        pos[:, 1:] = pos[:, 1:2]
    torch.testing.assert_close(supernet(x, spec), supernet(swapped, spec), atol=1e-4, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(spaces(), st.sampled_from(RULES), st.sampled_from(MODES))
def test_units_cover_every_parameter_once(space, rule, mode):
    supernet = make(space, rule, mode)
    grouped = [id(p) for group in supernet.units().values() for p in group]
    assert sorted(grouped) == sorted(id(p) for p in supernet.parameters())
    assert len(grouped) == len(set(grouped))


@pytest.mark.parametrize(("mode", "private"), [(0, ""), (1, "v"), (2, "qk")])
def test_private_attention_belongs_to_one_head_count(mode, private):
    """Changing a private weight changes the logits of its head count only."""
    one, two = (SubnetSpec(16, 8, 20, 5, (LayerSpec(h, 60, 30),)) for h in (1, 2))
    x = images(SMALL)
    for part in "qkv":
        supernet = make(SMALL, mode=mode)
        before = supernet(x, one), supernet(x, two)
        with torch.no_grad():
            suffix = "2" if part in private else ""
            named_tensors(supernet)[f"blocks.0.attn.{part}{suffix}_weight"].add_(1.0)
        after = supernet(x, one), supernet(x, two)
        assert not torch.equal(before[1], after[1]), part
        assert torch.equal(before[0], after[0]) == (part in private), part


def test_class_token_and_positions_are_private_to_a_patch_size():
    four, eight = (SubnetSpec(16, p, 20, 5, (LayerSpec(1, 60, 30),)) for p in (4, 8))
    x = images(SMALL)
    for name in ("cls_token", "pos_embed", "weight", "bias"):
        supernet = make(SMALL)
        before = supernet(x, four), supernet(x, eight)
        with torch.no_grad():
            named_tensors(supernet)[f"stems.patch8.{name}"].add_(1.0)
        assert torch.equal(before[0], supernet(x, four))
        assert not torch.equal(before[1], supernet(x, eight))


@pytest.mark.parametrize("rule", RULES)
def test_a_row_belongs_to_one_of_q_k_v_at_every_width(rule):
    """The values of q's weight appear in the q rows of every extracted network only, likewise k and v."""
    supernet = make(SMALL, rule, mode=0)
    with torch.no_grad():
        for number, part in enumerate("qkv"):
            named_tensors(supernet)[f"blocks.0.attn.{part}_weight"].fill_(number)
    for qkv_dim in SMALL.qkv_widths:
        spec = SubnetSpec(16, 8, 10, 5, (LayerSpec(1, qkv_dim, 30),))
        for side in supernet.sides:
            rows = subnet_state_dict(supernet, spec, side)["blocks.0.attn.qkv.weight"]
            assert torch.equal(rows, torch.arange(3.0).repeat_interleave(qkv_dim // 3)[:, None].expand(-1, 10))


def test_softmax_scale_defaults_to_head_dim_and_can_be_set():
    """The default is head_dim ** -0.5. Another scale in the spec changes the logits."""
    for heads in (1, 2):
        spec = SubnetSpec(16, 8, 20, 5, (LayerSpec(heads, 60, 30),))
        explicit = SubnetSpec(16, 8, 20, 5, (LayerSpec(heads, 60, 30, softmax_scale=(20 / heads) ** -0.5),))
        other = SubnetSpec(16, 8, 20, 5, (LayerSpec(heads, 60, 30, softmax_scale=20**-0.5 * 3),))
        supernet, x = make(SMALL), images(SMALL)
        torch.testing.assert_close(supernet(x, spec), supernet(x, explicit), rtol=1e-6, atol=1e-6)
        assert not torch.allclose(supernet(x, spec), supernet(x, other), atol=1e-4)


def test_grad_checkpointing_gives_equal_gradients():
    spec = SubnetSpec(16, 4, 10, 5, (LayerSpec(2, 30, 15), None, LayerSpec(1, 42, 21)))
    grads = []
    for recompute in (False, True):
        supernet = make(SMALL, "bilateral").train()
        supernet.grad_checkpointing = recompute
        supernet(images(SMALL), spec).square().sum().backward()
        grads.append({name: p.grad for name, p in supernet.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])


def test_initial_weights_depend_on_seed_and_name_only():
    reference = Supernet(SMALL, "ordinal")
    init_weights(reference, seed=3)
    torch.manual_seed(99)  # another rank with another random state
    torch.randn(7)
    reordered = Supernet(SMALL, "cyclic")
    reordered._modules = dict(reversed(reordered._modules.items()))
    assert [name for name, _ in reordered.named_parameters()] != [name for name, _ in reference.named_parameters()]
    init_weights(reordered, seed=3)
    other = Supernet(SMALL, "ordinal")
    init_weights(other, seed=4)
    same, different = named_tensors(reordered), named_tensors(other)
    for name, weight in named_tensors(reference).items():
        assert torch.equal(weight, same[name]), name
        assert weight.ndim < 2 or weight.shape[0] == 1 or not torch.equal(weight, different[name]), name


@settings(max_examples=25, deadline=None)
@given(spaces_and_specs(), st.sampled_from(RULES), st.sampled_from(MODES))
def test_class_token_only_gives_equal_logits_with_fewer_macs(space_and_spec, rule, mode):
    """It skips q, attention, projection and MLP of the last layer for the patches; their MACs are counted by hand."""
    space, spec = space_and_spec
    supernet, x = make(space, rule, mode), images(space)
    with torch.no_grad():
        expected = supernet(x, spec)
        supernet.class_token_only = True
        logits = supernet(x, spec)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
        for side, together in zip(supernet.sides, logits, strict=True):
            alone = supernet(x, spec, [side])[0]
            assert torch.equal(extract(supernet, spec, side)(x), alone)
            same_on_any_cpu(together, alone, len(supernet.sides))
    last, patches = spec.active[-1], spec.num_patches
    per_patch = 2 * spec.embed_dim * (last.attn_dim + last.mlp_dim) + 2 * (patches + 1) * last.attn_dim
    saved = patches * per_patch
    assert executed_macs(supernet, x[:1], spec) == len(supernet.sides) * (spec_macs(spec) - saved)
    assert executed_macs(extract(supernet, spec), x[:1]) == spec_macs(spec) - saved


@pytest.mark.parametrize("rule", RULES)
def test_class_token_only_gives_equal_gradients(rule):
    spec = SubnetSpec(16, 4, 10, 5, (LayerSpec(2, 30, 15), None, LayerSpec(1, 42, 21)))
    grads = []
    for class_token_only in (False, True):
        supernet = make(SMALL, rule).double()
        supernet.class_token_only = class_token_only
        supernet(images(SMALL, 3).double(), spec).square().sum().backward()
        grads.append({name: p.grad for name, p in supernet.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(spaces_and_specs(), st.sampled_from(RULES), st.sampled_from(MODES))
def test_gradients_are_the_sum_over_the_extracted_networks(space_and_spec, rule, mode):
    """All sides at once: the gradient of a parameter is the sum of the gradients of the plain networks of all sides."""
    space, spec = space_and_spec
    supernet, x = make(space, rule, mode).double(), images(space, 3).double()
    supernet(x, spec).square().sum().backward()
    found = {name: p.grad for name, p in supernet.named_parameters() if p.grad is not None}
    supernet.zero_grad()
    for side in supernet.sides:
        tensors = subnet_state_dict(supernet, spec, side)
        loss = torch.func.functional_call(extract(supernet, spec, side), tensors, x).square().sum()
        loss.backward()
    for name, p in supernet.named_parameters():
        assert (p.grad is None) == (name not in found), name
        if p.grad is not None:
            torch.testing.assert_close(found[name], p.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_a_bound_subnet_equals_the_supernet_on_every_batch(rule):
    """Packing once gives the same logits as packing for each batch."""
    supernet = make(SMALL, rule)
    spec = SubnetSpec(16, 4, 12, 5, (LayerSpec(2, 30, 15), None, LayerSpec(1, 60, 30)))
    with torch.no_grad():
        forward = supernet.bind(spec)
        for count in (2, 3):
            assert torch.equal(forward(images(SMALL, count)), supernet(images(SMALL, count), spec))
