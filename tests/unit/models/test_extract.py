"""Extraction of a subnet: weights, spec, precision and independence from the supernet.

Reference: the supernet of the extracted network.
"""

import pytest
import torch

from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.models.extract import extract
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet

SPACE = SearchSpace(image_size=16, num_classes=5, patch_sizes=(8,), embed_dim=20, depth=3, num_heads=(1, 2), qkv_dim=60)
SPEC = SubnetSpec(16, 8, 10, 5, (LayerSpec(1, 60, 144), None, LayerSpec(2, 24, 288)))


@pytest.fixture
def supernet() -> Supernet:
    supernet = Supernet(SPACE, "bilateral")
    init_weights(supernet, 0)
    return supernet.eval()


def test_the_extracted_network_has_the_canonical_spec(supernet):
    net = extract(supernet, SPEC)
    assert net.spec == SPEC.canonical()
    assert len(net.blocks) == 2
    assert not net.training
    assert extract(supernet.train(), SPEC).training


def test_training_the_extracted_network_does_not_change_the_supernet(supernet):
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    net = extract(supernet, SPEC)
    with torch.no_grad():
        for weight in net.parameters():
            assert weight.requires_grad
            weight.add_(1)
    assert all(torch.equal(value, supernet.state_dict()[name]) for name, value in before.items())


def test_sides_are_different_networks(supernet):
    left, right = extract(supernet, SPEC, "left"), extract(supernet, SPEC, "right")
    expected = supernet.state_dict()["blocks.0.mlp.fc1.weight"]
    assert torch.equal(left.blocks[0].mlp.fc1.weight, expected[:144, :10])
    assert torch.equal(right.blocks[0].mlp.fc1.weight, expected[-144:, -10:])


def test_both_sides_are_equal_at_full_width(supernet):
    spec = SubnetSpec(16, 8, 20, 5, (LayerSpec(1, 60, 1440),))
    images = torch.randn(2, 3, 16, 16)
    left, right = supernet(images, spec)
    assert torch.equal(left, right)


def test_the_extracted_network_has_the_dtype_of_the_supernet(supernet):
    images = torch.randn(2, 3, 16, 16).bfloat16()
    net = extract(supernet.bfloat16(), SPEC)
    assert {weight.dtype for weight in net.parameters()} == {torch.bfloat16}
    assert torch.equal(net(images), supernet(images, SPEC)[0])
