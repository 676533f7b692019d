"""Axes and regions against index lists."""

import pytest
import torch

from vitas_ds.arch.space import SearchSpace
from vitas_ds.models.channels import channel_slices
from vitas_ds.models.pack import pack
from vitas_ds.models.plan import Axis, Part, Run, Source, axis, whole_axis

SPACE = SearchSpace(
    image_size=16, num_classes=5, patch_sizes=(4, 8), embed_dim=20, depth=1, num_heads=(1, 2), qkv_dim=60, mlp_dim=30
)
SIDES = ("left", "right", "cycle")


def index(side: str, width: int, widths: tuple[int, ...]) -> list[int]:
    """Return the active channels as a list, by a second implementation."""
    full = widths[-1]
    if side == "left":
        return list(range(width))
    if side == "right":
        return list(range(full - width, full))
    bins = [list(range(a, b)) for a, b in zip((0, *widths), widths, strict=False)]
    c = widths.index(width) + 1
    first = sum(range(1, c)) % len(widths)
    ring = [channel for b in bins[first:] + bins[:first] for channel in b]
    return ring[:width]


def padded_index(channels: list[int], head_dim: int, multiple: int) -> list[int | None]:
    """Return the channel at each place of the padded axis; None for padding."""
    size = head_dim or len(channels)
    padding = [None] * (-size % multiple)
    groups = [channels[i : i + size] for i in range(0, len(channels), size)]
    return [channel for group in groups for channel in [*group, *padding]]


def by_lists(weight: torch.Tensor, rows: list[int | None], columns: list[int | None]) -> torch.Tensor:
    return torch.tensor(
        [[0.0 if r is None or c is None else float(weight[r, c]) for c in columns] for r in rows], dtype=weight.dtype
    )


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("widths", [SPACE.embed_widths, SearchSpace().embed_widths, (3, 7, 8, 12)])
def test_channel_slices_match_the_second_implementation(side, widths):
    for width in widths:
        runs = channel_slices(side, width, widths)
        assert [i for run in runs for i in range(run.start, run.stop)] == index(side, width, widths)


@pytest.mark.parametrize("sides", [("left",), ("left", "right"), ("cycle",)])
@pytest.mark.parametrize("head_dim", [0, 2, 3])
@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_packed_matrices_match_index_lists(sides, head_dim, multiple):
    """Rows with heads, columns without, and the other way round; at every width, from a part of a parameter."""
    widths = tuple(6 * i for i in range(1, 9))
    parameter = torch.randn(7 + 48 * 48)
    weight = parameter[7:].view(48, 48)
    for i, width in enumerate(widths):
        other = widths[len(widths) - 1 - i]
        a, b = axis(sides, width, widths, head_dim, multiple), axis(sides, other, widths, 0, multiple)
        lists = [
            (
                padded_index(index(s, width, widths), head_dim, multiple),
                padded_index(index(s, other, widths), 0, multiple),
            )
            for s in sides
        ]
        part = Part()
        part.matrix("rows", [Source(0, 7, 48)], a, b)
        part.matrix("columns", [Source(0, 7, 48)], b, a)
        part.vector("vector", [Source(0, 7, 0)] * 2, a)
        (packed,) = pack([part], [[parameter]], torch.float32)
        for s, (heads, plain) in enumerate(lists):
            assert torch.equal(packed["rows"][s], by_lists(weight, heads, plain))
            assert torch.equal(packed["columns"][s], by_lists(weight, plain, heads))
            assert torch.equal(packed["vector"][s], by_lists(weight, [0], heads * 2)[0])
        assert part.is_padded == any(None in heads or None in plain for heads, plain in lists)


def test_axes_by_hand():
    assert axis(("left", "right"), 4, (4, 8), 2, 8) == Axis(
        16, ((Run(0, 4, 0, 2, 6, 0),), (Run(4, 4, 0, 2, 6, 0),))
    )  # two heads of 2 channels, each padded to 8
    assert axis(("cycle",), 6, (3, 6, 9), 2, 4).sides == ((Run(3, 6, 0, 2, 2, 0),),)
    # channels 6, 7 and 0 are the first head of 3, padded to 4; channels 1 to 3 are the second
    assert axis(("cycle",), 6, (2, 4, 6, 8), 3, 4) == Axis(8, ((Run(6, 2, 0, 3, 1, 0), Run(0, 4, 2, 3, 1, 2)),))
    assert whole_axis(5, 2, 4) == Axis(8, whole_axis(5, 2).sides)
