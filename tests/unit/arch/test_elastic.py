"""Spaces of subnets of a pretrained network: widths, dropped layers and costs by hand, and settings that do not fit."""

import numpy as np
import pytest
from pydantic import ValidationError

from vitas_ds.arch import cost, genome
from vitas_ds.arch.elastic import elastic_fields
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.errors import UserError, first_error

FIELDS = {
    "image_size": 32, "num_classes": 10, "patch_sizes": (8,), "embed_dim": 16, "depth": 4, "num_heads": (1, 3),
    "qkv_dim": 36, "mlp_dim": 20, "embed_ratios": (0.75, 1.0), "qkv_ratios": (0.5, 1.0), "mlp_ratios": (0.5, 1.0),
    "min_depth": 2, "elastic": {"head_dim": 4, "drop_order": (2, 0, 1, 3), "prefix_tokens": 2, "layer_scale": True},
}  # fmt: skip
SPACE = SearchSpace(**FIELDS)
WHOLE = LayerSpec(3, 36, 20)
NARROW = LayerSpec(3, 18, 20, 0.5)  # half of each head, with the scale of whole heads: 4 ** -0.5


def test_the_largest_network_is_the_pretrained_one():
    largest = genome.decode(SPACE, genome.largest(SPACE))
    assert largest == SubnetSpec(32, 8, 16, 10, (WHOLE,) * 4, prefix_tokens=2, layer_scale=True)
    fields = elastic_fields(largest)
    assert fields.pop("num_heads") == 3
    assert SearchSpace(**FIELDS | fields | {"elastic": FIELDS["elastic"] | fields["elastic"]}) == SPACE
    with pytest.raises(ValueError, match="the layers of the network differ"):
        elastic_fields(SubnetSpec(32, 8, 16, 10, (WHOLE, NARROW)))


def test_the_smallest_network_keeps_part_of_a_head_and_the_last_layers_of_the_order():
    smallest = genome.decode(SPACE, genome.smallest(SPACE))
    layer = LayerSpec(1, 6, 10, 0.5)
    assert smallest.layers == (None, layer, None, layer) and smallest.embed_dim == 12


@pytest.mark.parametrize(("depth", "active"), [(2, [1, 3]), (3, [0, 1, 3]), (4, [0, 1, 2, 3])])
def test_the_depth_determines_the_layers(depth, active):
    spec = SubnetSpec(32, 8, 16, 10, tuple(LayerSpec(3, 36, 20) for _ in range(depth)), prefix_tokens=2,
                      layer_scale=True)  # fmt: skip
    decoded = genome.decode(SPACE, genome.encode(SPACE, spec))
    assert [i for i, layer in enumerate(decoded.layers) if layer] == active and decoded.canonical() == spec


def test_other_layers_keep_their_places_when_one_is_dropped():
    row = genome.encode(SPACE, genome.decode(SPACE, genome.largest(SPACE)))
    layers = row[2:].reshape(4, 3)
    layers[:, 2] = 1, 0, 1, 0  # MLP widths
    layers[3] = len(SPACE.num_heads), 0, 0  # drop the last layer, but the order begins with layer 2
    moved = genome.canonical(SPACE, row[None])[0, 2:].reshape(4, 3)
    assert moved[:, 0].tolist() == [1, 1, 2, 1] and moved[:, 2].tolist() == [1, 0, 0, 1]


def test_macs_by_hand():
    spec = SubnetSpec(32, 8, 12, 10, (NARROW, WHOLE), prefix_tokens=2, layer_scale=True)
    table = genome.width_table(SPACE, genome.encode(SPACE, spec)[None])
    patches, tokens, D = 16, 18, 12
    layers = sum(
        tokens * D * 3 * a + 2 * tokens**2 * a + tokens * a * D + 2 * tokens * D * 20 for a in (6, 12)
    )  # fmt: skip
    assert cost.macs(table)[0] == patches * 3 * 64 * D + layers + D * 10


def test_every_count_of_heads_has_its_own_widths():
    assert SPACE.attn_table.tolist() == [[2, 4], [6, 12], [0, 0]]
    assert SPACE.qkv_widths == (6, 12, 18, 36) and list(SPACE.gene_sizes[:5]) == [1, 2, 3, 2, 2]
    assert genome.count_subnets(SPACE) == 2 * sum(8**k for k in (2, 3, 4))
    with pytest.raises(UserError, match=r"layers\[0\]\.qkv_dim 36 is not one of \[6, 12\]"):
        genome.encode(SPACE, SubnetSpec(32, 8, 16, 10, (LayerSpec(1, 36, 20),) * 4, prefix_tokens=2, layer_scale=True))
    with pytest.raises(UserError, match=r"softmax_scale None is not one of \[0.5\]"):
        genome.encode(SPACE, SubnetSpec(32, 8, 16, 10, (LayerSpec(3, 18, 20),) * 4, prefix_tokens=2, layer_scale=True))
    with pytest.raises(UserError, match=r"prefix_tokens 1 is not one of \[2\]"):
        genome.encode(SPACE, SubnetSpec(32, 8, 16, 10, (WHOLE,) * 4, layer_scale=True))


def test_random_networks_follow_the_order():
    rows = genome.sample(SPACE, np.random.default_rng(0), 200, 0.5)
    active = rows[:, 2::3] < 2
    assert {tuple(row) for row in active.tolist()} == {
        (False, True, False, True), (True, True, False, True), (True,) * 4
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qkv_dim": 48}, "qkv_dim: 48 is not 3 * 3 heads * elastic.head_dim 4"),
        ({"patch_sizes": (8, 16)}, "a pretrained network has one patch size"),
        ({"layout": "cell"}, "the layout must be layer"),
        ({"qkv_ratios": (0.1, 1.0)}, "elastic.head_dim 4 is too small for its ratios: widths [0, 4]"),
        ({"elastic": {"head_dim": 4, "drop_order": (0,)}}, "must name 2 to 4 different layers from 0 to 3 (given: [0"),
        ({"elastic": {"head_dim": 4, "drop_order": (0, 0)}}, "must name 2 to 4 different layers"),
        ({"elastic": {"head_dim": 4, "drop_order": (0, 4)}}, "must name 2 to 4 different layers"),
        ({"elastic": {"head_dim": 4, "classifiers": 2}}, "classifiers 2 is more than prefix_tokens 1"),
        ({"elastic": {"head_dim": 4, "classifiers": 2, "prefix_tokens": 3, "pool": "patches"}},
         "classifiers 2 needs pool class: the mean of the patches has one classifier"),
        ({"elastic": {"layer_scale": True}}, "layer_scale needs head_dim"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_errors(change, message):
    with pytest.raises(ValidationError) as error:
        SearchSpace(**FIELDS | change)
    assert message in first_error(error.value)
