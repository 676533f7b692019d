"""Sharing rules: the channels of each width, and use counts of all channels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitas_ds.arch.space import SearchSpace
from vitas_ds.models.channels import SIDES, Rule, centered_ranks, channel_slices

EVEN = tuple(range(7, 71, 7))
WIDTHS = st.sets(st.integers(1, 60), min_size=1, max_size=12).map(lambda s: tuple(sorted(s)))


def use_counts(rule: Rule, widths: tuple[int, ...]) -> list[int]:
    """Count how often each channel is used if every width runs once on all sides of the rule."""
    counts = [0] * widths[-1]
    for side in SIDES[rule]:
        for width in widths:
            for part in channel_slices(side, width, widths):
                for i in range(part.start, part.stop):
                    counts[i] += 1
    return counts


def channel_list(side: str, width: int, widths: tuple[int, ...]) -> list[int]:
    return [i for run in channel_slices(side, width, widths) for i in range(run.start, run.stop)]


@given(WIDTHS, st.sampled_from(["left", "right", "cycle"]))
def test_a_width_uses_as_many_distinct_channels(widths, side):
    for width in widths:
        used = channel_list(side, width, widths)
        assert len(used) == len(set(used)) == width
        assert set(used) <= set(range(widths[-1]))
    assert sorted(channel_list(side, widths[-1], widths)) == list(range(widths[-1]))


@given(WIDTHS)
def test_left_and_right_are_the_first_and_last_channels(widths):
    for width in widths:
        assert channel_list("left", width, widths) == list(range(widths[-1]))[:width]
        assert channel_list("right", width, widths) == list(range(widths[-1]))[widths[-1] - width :]


def test_ordinal_use_counts_fall_from_ten_to_one():
    assert use_counts("ordinal", EVEN) == [10 - i // 7 for i in range(70)]


def test_bilateral_uses_each_channel_eleven_times():
    assert use_counts("bilateral", EVEN) == [11] * 70


def test_cyclic_uses_each_channel_five_or_six_times():
    counts = use_counts("cyclic", EVEN)
    assert set(counts) == {5, 6}
    assert sum(counts) == sum(EVEN)
    assert all(len(set(counts[i : i + 7])) == 1 for i in range(0, 70, 7))


def test_use_counts_of_rounded_widths():
    """Rounded widths are not evenly spaced: bilateral uses each channel 10 to 12 times, cyclic 4 to 7 times."""
    widths = SearchSpace().embed_widths
    assert widths == (38, 77, 115, 154, 192, 230, 269, 307, 346, 384)
    assert max(use_counts("ordinal", widths)) == 10
    assert set(use_counts("bilateral", widths)) <= {10, 11, 12}
    assert set(use_counts("cyclic", widths)) <= {4, 5, 6, 7}
    assert sum(use_counts("cyclic", widths)) == sum(widths)


def test_start_of_cyclic_widths():
    """Width c starts at bin sum(j for j < c) mod 10 and wraps."""
    starts = [channel_slices("cycle", width, EVEN)[0].start // 7 for width in EVEN]
    assert starts == [sum(range(1, c)) % 10 for c in range(1, 11)]
    assert channel_slices("cycle", 28, EVEN) == (slice(42, 70),)
    assert channel_slices("cycle", 56, EVEN) == (slice(56, 70), slice(0, 42))


def test_sides_of_the_rules():
    assert SIDES == {"ordinal": ("left",), "bilateral": ("left", "right"), "cyclic": ("cycle",)}


def test_an_unknown_width_is_an_error():
    with pytest.raises(ValueError):
        channel_slices("cycle", 8, EVEN)


@pytest.mark.parametrize("widths", [(1, 2, 3), (3, 4, 7), (2, 5, 6, 9), (4,), (48, 96, 192)])
def test_centered_sides_of_a_pretrained_network(widths):
    """Both sides contain the most important units, are equal at full width, and mirror each other."""
    ranks, full, core = centered_ranks(widths), widths[-1], widths[0]
    assert sorted(ranks) == list(range(full))
    uses = np.zeros(full, int)
    for width in widths:
        left, right = ([i for s in channel_slices(side, width, widths, True) for i in range(s.start, s.stop)]
                       for side in ("left", "right"))  # fmt: skip
        assert len(left) == len(right) == width
        assert {ranks[i] for i in left} & {ranks[i] for i in right} >= set(range(core))
        uses[left] += 1
        uses[right] += 1
    assert left == right == list(range(full))
    if (full - core) % 2 == 0:
        assert (uses == uses[::-1]).all()
    outside = sorted((i for i in range(full) if ranks[i] >= core), key=lambda i: ranks[i])
    on_the_right = [i >= full // 2 for i in outside]
    assert on_the_right == [True, False] * (len(outside) // 2) + [True] * (len(outside) % 2)
