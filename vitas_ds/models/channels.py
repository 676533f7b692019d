"""Which channels of a shared weight a width uses: ordinal, bilateral, cyclic, behind one function. No torch."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

Rule = Literal["ordinal", "bilateral", "cyclic"]
Side = Literal["left", "right", "cycle"]
Runs = tuple[slice, ...]  # consecutive runs of channels, in the order in which the narrow net has them

SIDES: dict[str, tuple[Side, ...]] = {"ordinal": ("left",), "bilateral": ("left", "right"), "cyclic": ("cycle",)}


@lru_cache(maxsize=65536)
def channels(side: Side, width: int, widths: tuple[int, ...]) -> Runs:
    """The channels that ``width`` uses of a weight whose possible widths are ``widths`` (ascending; the last is all).

    - ``left``, ordinal sharing (AutoSlim, arXiv 1903.11728): the first ``width``. Also one side of
    - ``right``, bilateral sharing (BCNet, CVPR 2021): the last ``width``. Both sides of a net are run, so that each
      channel is used by equally many widths.
    - ``cycle``, "cyclic" sharing of ViTAS (ECCV 2022) in **our layout**, which its abstract leaves open: with the
      widths cutting the channels into bins, the c-th width starts at bin ``sum(1 .. c - 1) mod bins`` and wraps
      around. One path, and each bin is used 5 or 6 times by ten even widths, where ordinal gives 10 to 1.

    Raises:
        ValueError: ``width`` is not one of ``widths``.
    """
    full = widths[-1]
    if side == "left":
        return (slice(0, width),)
    if side == "right":
        return (slice(full - width, full),)
    c = widths.index(width)
    start = (0, *widths)[c * (c + 1) // 2 % len(widths)]
    if start + width <= full:
        return (slice(start, start + width),)
    return slice(start, full), slice(0, start + width - full)


def use_counts(rule: Rule, widths: tuple[int, ...]) -> list[int]:
    """How often each channel is used when every width is run once, on all sides of the rule."""
    counts = [0] * widths[-1]
    for side in SIDES[rule]:
        for width in widths:
            for run in channels(side, width, widths):
                for i in range(run.start, run.stop):
                    counts[i] += 1
    return counts
