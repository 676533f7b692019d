"""Weights for other classes and another image size.

Reference: timm's ``resample_abs_pos_embed``.
"""

from __future__ import annotations

import pytest
import torch
from timm.layers import resample_abs_pos_embed

from vitas_ds.models.transfer import shapes_after_transfer, transfer


@pytest.mark.parametrize(("old", "new"), [(14, 24), (24, 14), (7, 7), (4, 5)])
@pytest.mark.parametrize("prefix", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_position_embeddings_equal_those_of_timm(old: int, new: int, prefix: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(old)
    trained = torch.randn(1, prefix + old * old, 8, generator=generator).to(dtype)
    initial = {"pos_embed": torch.zeros(1, prefix + new * new, 8)}
    got = transfer({"pos_embed": trained}, initial, new_head=False, prefix=prefix)["pos_embed"]
    assert torch.equal(got, resample_abs_pos_embed(trained, [new, new], num_prefix_tokens=prefix))


def test_a_new_head_is_the_initial_one() -> None:
    names = ("pos_embed", "head.weight", "head.bias", "head_dist.weight", "norm.weight")
    old, new = ({name: torch.full((1, 5, 2), value) for name in names} for value in (1.0, 2.0))
    got = transfer(old, new, new_head=True)
    assert {name for name in names if got[name][0, 0, 0] == 2} == {"head.weight", "head.bias", "head_dist.weight"}
    assert transfer(old, new, new_head=False) == old


def test_shapes_that_a_transfer_cannot_fit_stay() -> None:
    expected = {"pos_embed": (1, 10, 8), "head.weight": (3, 8)}
    for found, positions in (((1, 17, 8), (1, 10, 8)), ((1, 16, 8), (1, 16, 8)), ((1, 17, 6), (1, 17, 6))):
        got = shapes_after_transfer({"pos_embed": found, "head.weight": (5, 8)}, expected, new_head=True)
        assert got == {"pos_embed": positions, "head.weight": (3, 8)}
    kept = shapes_after_transfer({"pos_embed": (1, 10, 8), "head.weight": (5, 8)}, expected, new_head=False)
    assert kept["head.weight"] == (5, 8)
