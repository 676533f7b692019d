"""Costs against a plain count, torch's FLOP counter and the tensors that autograd saves."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.helpers.strategies import elastic_spaces, genomes, spaces, spaces_and_specs
from vitas_ds.arch import cost, genome
from vitas_ds.arch.published import published
from vitas_ds.arch.space import SearchSpace, WidthTable
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.models.supernet import Supernet
from vitas_ds.models.vit import VisionTransformer

TINY = SubnetSpec(8, 4, 6, 5, (LayerSpec(2, 12, 7), None, LayerSpec(1, 9, 3)))


def plain_count(spec: SubnetSpec) -> dict[str, int]:
    """Count every matrix product of a network as rows x inner x columns."""
    n = (spec.image_size // spec.patch_size) ** 2
    exact, first_release = [], []
    for tokens, out, classified in ((n + 1, exact, 1), (n, first_release, n)):
        out.append(n * (3 * spec.patch_size**2) * spec.embed_dim)
        for layer in spec.layers:
            if layer is None:
                continue
            a = layer.qkv_dim // 3
            out.append(tokens * spec.embed_dim * layer.qkv_dim)
            for _ in range(layer.num_heads):
                out.append(tokens * (a // layer.num_heads) * tokens)  # q k
                out.append(tokens * tokens * (a // layer.num_heads))  # map v
            out.append(tokens * a * spec.embed_dim)
            out.append(tokens * spec.embed_dim * layer.mlp_dim)
            out.append(tokens * layer.mlp_dim * spec.embed_dim)
        out.append(classified * spec.embed_dim * spec.num_classes)
    return {"macs": sum(exact), "vitas_flops": sum(first_release)}


@given(spaces_and_specs())
def test_costs_match_a_plain_count(space_and_spec):
    _, spec = space_and_spec
    table = WidthTable.from_specs([spec])
    assert {"macs": cost.macs(table)[0], "vitas_flops": cost.vitas_flops(table)[0]} == plain_count(spec)
    assert cost.spec_macs(spec) == plain_count(spec)["macs"]


def test_a_network_computed_by_hand():
    """4 patches of 48 values, 5 tokens, width 6: 1152; layers 360+200+120+420 and 270+150+90+180; classifier 30."""
    assert cost.layer_macs(WidthTable.from_specs([TINY])).tolist() == [[1100, 0, 690]]
    assert cost.macs(WidthTable.from_specs([TINY])).tolist() == [1152 + 1100 + 690 + 30]
    layers = (288 + 128 + 96 + 336) + (216 + 96 + 72 + 144)
    assert cost.vitas_flops(WidthTable.from_specs([TINY])).tolist() == [1152 + layers + 120]


@pytest.mark.parametrize("name", ["deit-ti", "vitas-a", "vitas-f"])
def test_macs_are_half_the_flops_of_torch(name):
    spec = published(name).spec
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.device("meta"):
        VisionTransformer(spec)(torch.empty(1, 3, 224, 224))
    assert counter.get_total_flops() / 2 == cost.spec_macs(spec)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_batched_costs_equal_single_costs(data):
    space = data.draw(st.one_of(spaces(), elastic_spaces()))
    rows = data.draw(genomes(space, 8))
    table = genome.width_table(space, rows)
    single = [WidthTable.from_specs([genome.decode(space, row)]) for row in rows]
    for price in (cost.macs, cost.vitas_flops, cost.params, cost.activations):
        assert price(table).tolist() == [price(one_row)[0] for one_row in single]
        assert price(table).dtype == np.int64
    for by_layer in (cost.layer_macs, cost.layer_params, cost.layer_activations):
        costs = by_layer(table)
        assert costs.shape == (8, space.depth)
        assert (costs[table.num_heads == 0] == 0).all() and (costs[table.num_heads > 0] > 0).all()


def saved_bytes(module: torch.nn.Module, *inputs) -> int:
    """Return the bytes that autograd saves in a forward pass: each storage once, without parameters."""
    storages, alive = {}, []
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)  # a freed storage could be reused: two tensors would count once
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(*inputs)
    return sum(storages.values())


@pytest.mark.parametrize("spec", [published("deit-ti").spec, published("vitas-a").spec, published("vitas-c").spec])
def test_activations_match_the_saved_tensors_of_autograd(spec):
    measured = saved_bytes(VisionTransformer(spec).train(), torch.zeros(1, 3, 224, 224))
    counted = cost.activations(WidthTable.from_specs([spec]))[0]
    print("saved", measured, "computed", counted)
    assert measured == pytest.approx(counted, rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(spaces_and_specs())
def test_activations_of_random_networks(space_and_spec):
    space, spec = space_and_spec
    measured = saved_bytes(VisionTransformer(spec).train(), torch.zeros(1, 3, space.image_size, space.image_size))
    assert measured == pytest.approx(cost.activations(WidthTable.from_specs([spec]))[0], abs=64 * (spec.depth + 1))


def test_activations_scale_with_the_batch_and_ignore_drop_path():
    spec = published("vitas-a").spec
    counted = cost.activations(WidthTable.from_specs([spec]))[0]
    model = VisionTransformer(spec, drop_path_rate=0.1).train()
    assert saved_bytes(model, torch.zeros(4, 3, 224, 224)) == pytest.approx(4 * counted, rel=1e-3)


@settings(max_examples=30, deadline=None)
@given(spaces_and_specs())
def test_layer_params_match_the_blocks(space_and_spec):
    _, spec = space_and_spec
    model = VisionTransformer(spec)
    expected = [sum(p.numel() for p in block.parameters()) for block in model.blocks]
    by_layer = cost.layer_params(WidthTable.from_specs([spec]))[0]
    assert [count for count in by_layer.tolist() if count] == expected


def test_number_of_weights_of_the_1g_supernet():
    """q and k of four head counts and one v per layer. The supernet of the first release also has 49.6 M parameters."""
    with torch.device("meta"):
        supernet = Supernet(SearchSpace(), "bilateral")
    layer = (4 * 2 + 1) * 480 * 385 + 384 * 481 + 1440 * 385 + 384 * 1441 + 4 * 384
    stems = sum(384 * (3 * p * p + 1 + 1 + (224 // p) ** 2 + 1) for p in (14, 16, 32))
    total = sum(p.numel() for p in supernet.parameters())
    assert total == 16 * layer + stems + 2 * 384 + 385 * 1000
    assert round(total / 1e6, 1) == 49.6


def test_costs_of_a_hundred_thousand_networks_take_less_than_a_second():
    space = SearchSpace()
    rows = genome.sample(space, np.random.default_rng(0), 100_000)
    times = []
    for _ in range(3):
        start = time.process_time()
        cost.macs(genome.width_table(space, rows))
        times.append(time.process_time() - start)
    print(f"{1e5 / min(times):,.0f} networks per second")
    assert min(times) < 1
