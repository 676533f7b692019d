"""The tensors of a file against the tensors of a network."""

import re

import pytest
import torch

from vitas_ds.errors import UserError
from vitas_ds.models.shapes import check_shapes, shapes_of

EXPECTED = {"a.weight": (5, 24), "a.bias": (5,), "scale": ()}


def test_equal_shapes_in_another_order():
    check_shapes("a.safetensors", dict(reversed(EXPECTED.items())), EXPECTED)


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ({"a.weight": (5, 24), "scale": (), "more": (1,)}, "tensor a.bias is missing"),
        (EXPECTED | {"more": (1,), "a.bias": (6,)}, "unexpected tensor more"),
        (EXPECTED | {"a.weight": (7, 24)}, "tensor a.weight has shape [7, 24], expected [5, 24]"),
        (EXPECTED | {"scale": (1,)}, "tensor scale has shape [1], expected []"),
    ],
)
def test_the_first_difference_is_named(found, problem):
    with pytest.raises(UserError, match=f"^x: of another network: {re.escape(problem)}$"):
        check_shapes("x: of another network", found, EXPECTED)


def test_shapes_of_tensors():
    assert shapes_of({"a": torch.zeros(2, 3), "b": torch.zeros(())}) == {"a": (2, 3), "b": ()}
