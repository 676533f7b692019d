"""Padded and compiled supernets equal plain ones, and fp32 gradients those in float64."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.utils import counters

from tests.helpers.strategies import spaces_and_specs
from tests.helpers.supernets import gradients, images, make
from vitas_ds.arch import genome
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.models.channels import SIDES
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet

RULES, MODES = sorted(SIDES), (0, 1, 2)


@settings(max_examples=40, deadline=None)
@given(spaces_and_specs(), st.sampled_from(RULES), st.sampled_from(MODES), st.sampled_from([2, 8, 16]), st.booleans())
def test_padding_changes_neither_logits_nor_gradients(space_and_spec, rule, mode, multiple, class_token_only):
    space, spec = space_and_spec
    supernet, x, found = make(space, rule, mode).double(), images(space, 3).double(), []
    supernet.class_token_only = class_token_only
    for supernet.pad_multiple in (1, multiple):
        supernet.zero_grad()
        logits = supernet(x, spec)
        logits.square().sum().backward()
        found.append({"logits": logits.detach()} | gradients(supernet))
    assert found[0].keys() == found[1].keys()
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["ordinal", "bilateral"])
@pytest.mark.parametrize("multiple", [1, 8])
def test_two_compiled_graphs_serve_all_subnets(rule, multiple):
    """Logits and gradients equal those without compilation. torch compiles dimensions of size 1 separately."""
    space = SearchSpace(
        image_size=16, num_classes=5, patch_sizes=(4, 8), embed_dim=40, depth=3, num_heads=(2, 4), qkv_dim=240,
        mlp_dim=60, min_depth=2,
    )  # fmt: skip
    supernet, x = make(space, rule), images(space, 3)
    supernet.pad_multiple, supernet.class_token_only, eager = multiple, True, supernet.block_function
    torch._dynamo.reset()
    counters.clear()
    supernet.compile_blocks(backend="aot_eager")
    compiled = supernet.block_function
    for row in genome.sample(space, np.random.default_rng(0), 12):
        spec, found = genome.decode(space, row), []
        for supernet.block_function in (eager, compiled):
            supernet.zero_grad()
            logits = supernet(x, spec)
            logits.square().sum().backward()
            found.append({"logits": logits.detach()} | gradients(supernet))
        for name, expected in found[0].items():
            torch.testing.assert_close(found[1][name], expected, rtol=1e-3, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == 2


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("multiple", [1, 8])
def test_fp32_gradients_match_float64(rule, multiple):
    """At widths of the 1G space. Not the bias of k: softmax cancels it, and its gradient is rounding error."""
    space = SearchSpace(image_size=56, num_classes=13, patch_sizes=(14,), depth=2)
    spec, found = SubnetSpec(56, 14, 77, 13, (LayerSpec(16, 144, 1296), LayerSpec(3, 1008, 288))), []
    for dtype in (torch.float64, torch.float32):
        supernet = Supernet(space, rule, class_token_only=True)
        init_weights(supernet, 0, std=None)
        supernet.to(dtype)
        supernet.pad_multiple = multiple
        logits = supernet(images(space, 4).to(dtype), spec)
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.arange(len(logits) * 4)).backward()
        found.append(gradients(supernet))
    for name, expected in found[0].items():
        if not re.search(r"\.k\d*_bias$", name):
            assert (found[1][name].double() - expected).norm() <= 1e-5 * expected.norm(), name
