"""DeiT scaled by hand to a budget.

References: a search over all shapes one by one, as in the study of benchmarks, and DeiT itself.
"""

import itertools

import numpy as np
import pytest

from vitas_ds.arch.cost import spec_macs, spec_params
from vitas_ds.arch.hand_scaled import hand_scaled
from vitas_ds.arch.published import published
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import LayerSpec, SubnetSpec, check_spec
from vitas_ds.recipe import load

SMALL = SearchSpace(
    image_size=28, num_classes=10, patch_sizes=(7, 14), embed_dim=96, depth=6, num_heads=(2, 4), qkv_dim=192,
    mlp_dim=192, ratios=(0.5, 0.75, 1.0),
)  # fmt: skip


def one_by_one(space: SearchSpace, low: float, high: float, patch: int) -> SubnetSpec | None:
    """The rule in a loop."""
    shapes = [
        SubnetSpec(space.image_size, patch, width, space.num_classes, (LayerSpec(heads, qkv, mlp),) * depth)
        for width, qkv, mlp in itertools.product(space.embed_widths, space.qkv_widths, space.mlp_widths)
        for depth in range(space.min_layers, space.depth + 1) for heads in space.num_heads
    ]  # fmt: skip
    inside = [spec for spec in shapes if max(low, high / 2) <= spec_macs(spec) <= high]

    def unlike(spec):
        layer = spec.active[0]
        ratios = np.array([layer.mlp_dim / spec.embed_dim / 4, layer.qkv_dim / spec.embed_dim / 3])
        return float(np.abs(np.log2(ratios)).sum().round(3)), -spec.depth, abs(layer.head_dim - 16)

    return min(inside, key=unlike, default=None)


@pytest.mark.parametrize("patch", [7, 14])
@pytest.mark.parametrize(("low", "high"), [(8e5, 16e5), (0, 5e5), (3e6, 3.2e6), (0, 1e4)])
def test_it_is_the_network_that_a_loop_finds(low, high, patch):
    expected = one_by_one(SMALL, low, high, patch) or one_by_one(SMALL, low, high, 21 - patch)
    assert (expected is None) == (high == 1e4)
    assert hand_scaled(SMALL, {"macs": (low, high)}, patch) == expected


def test_deit_scaled_to_its_own_cost_is_deit():
    """The space has DeiT-Ti (192 channels, 3 heads, 12 layers): its cost leads back to it."""
    deit = published("deit-ti").spec
    space = SearchSpace(
        patch_sizes=(16,), embed_dim=384, depth=14, num_heads=(3, 6, 12), qkv_dim=1152, mlp_dim=1536,
        ratios=(0.25, 0.5, 0.75, 1.0),
    )  # fmt: skip
    macs = spec_macs(deit)
    assert hand_scaled(space, {"macs": (macs, macs)}, 16) == deit
    assert hand_scaled(space, {"params": (0, spec_params(deit)), "macs": (macs, macs)}, 16) == deit
    smaller = hand_scaled(space, {"params": (0, spec_params(deit) - 1), "macs": (macs, macs)}, 16)
    assert smaller is not None and spec_params(smaller) < spec_params(deit) and spec_macs(smaller) == macs


@pytest.mark.parametrize("recipe", ["quickstart", "cifar10", "vitas_1g_bcnet", "vitas_cell", "vitas_5g"])
def test_the_recipes_have_a_baseline_within_their_budget(recipe):
    config = load(recipe, ["data.train=/x", "data.val=/x"])
    for patch in config.space.patch_sizes:
        spec = hand_scaled(config.space, config.search.budget, patch)
        assert spec is not None and len(set(spec.layers)) == 1
        check_spec(spec)
