"""Norms private to each pair of patch size and embed_dim. Reference: the extracted network, and names by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.strategies import spaces_and_specs
from tests.helpers.supernets import SMALL, images, make
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.models.channels import SIDES
from vitas_ds.models.extract import extract
from vitas_ds.models.flat import named_tensors
from vitas_ds.models.supernet import Supernet

RULES = sorted(SIDES)
SPACE = SMALL.model_copy(update={"depth": 2})
LAYER = LayerSpec(2, 30, 15)


@given(spaces_and_specs(), st.sampled_from(RULES), st.sampled_from((0, 1, 2)))
def test_each_side_equals_its_extracted_network(space_and_spec, rule, mode):
    space, spec = space_and_spec
    supernet, x = make(space, rule, mode, private_norms=True), images(space)
    with torch.no_grad():
        logits = supernet(x, spec)
        for i, side in enumerate(supernet.sides):
            torch.testing.assert_close(logits[i], extract(supernet, spec, side)(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("patch, width", [(4, 20), (8, 10)])
def test_only_the_norms_of_the_stem_are_used(patch, width):
    supernet = make(SPACE, private_norms=True)
    spec = SubnetSpec(16, patch, width, 5, (LAYER, LAYER))
    supernet(images(SPACE), spec).sum().backward()
    used = {name for name, parameter in supernet.named_parameters() if parameter.grad is not None and "norms" in name}
    assert used == {f"{module}norms_p{patch}_d{width}" for module in ("", "blocks.0.", "blocks.1.")}
    units = supernet.units()
    assert {id(p) for name in supernet.units_used(spec) for p in units[name]} == {
        id(p) for p in supernet.parameters() if p.grad is not None
    }
    assert sum(len(parameters) for parameters in units.values()) == len(list(supernet.parameters()))


def test_another_stem_has_other_norms():
    """Zeroing the final norm of one stem leaves the logits of the others unchanged."""
    supernet, x = make(SPACE, private_norms=True), images(SPACE)
    narrow, wide = (SubnetSpec(16, 4, width, 5, (LAYER,)) for width in (10, 20))
    with torch.no_grad():
        before = supernet(x, wide), supernet(x, narrow)
        named_tensors(supernet)["norms_p4_d10.norm.weight"].zero_()
        assert torch.equal(supernet(x, wide), before[0])
        assert not torch.equal(supernet(x, narrow), before[1])


def test_without_private_norms_there_is_one():
    names = Supernet(SPACE, "ordinal").state_dict().keys()
    assert [name for name in names if "norm" in name and "blocks" not in name] == ["norm.weight", "norm.bias"]
    keyed = make(SPACE, private_norms=True).state_dict()
    assert sum(name.endswith("norm.weight") for name in keyed) == 2 * len(SPACE.embed_widths)


def test_the_state_can_be_saved_and_loaded():
    supernet, x = make(SPACE, "bilateral", private_norms=True), images(SPACE)
    other = Supernet(SPACE, "bilateral", private_norms=True)
    other.load_state_dict(supernet.state_dict())
    spec = SubnetSpec(16, 8, 16, 5, (LAYER, LAYER))
    assert torch.equal(other(x, spec), supernet(x, spec))
