"""Sharing rules: which channels of a shared weight a width uses. Importing this module does not import torch."""
# c index of a width

from __future__ import annotations

from functools import lru_cache
from typing import Literal

Rule = Literal["ordinal", "bilateral", "cyclic"]
Side = Literal["left", "right", "cycle"]
Slices = tuple[slice, ...]  # contiguous channels, in the order of the subnet

SIDES: dict[str, tuple[Side, ...]] = {"ordinal": ("left",), "bilateral": ("left", "right"), "cyclic": ("cycle",)}


@lru_cache(maxsize=65536)
def channel_slices(side: Side, width: int, widths: tuple[int, ...], centered: bool = False) -> Slices:
    """Return the channels of a weight for a width.

    - ``left``: the first ``width`` channels. The only side of ordinal sharing (AutoSlim, arXiv 1903.11728), and one of
      the two sides of bilateral sharing.
    - ``right``: the last ``width`` channels, the other side of bilateral sharing (BCNet, CVPR 2021). A subnet runs on
      both sides, which uses each channel in equally many widths.
    - ``cycle``: cyclic sharing of ViTAS (ECCV 2022), in **our layout**, which the abstract of the paper leaves open.
      The widths cut the channels into bins. The c-th width starts at bin ``sum(1 .. c - 1) mod bins`` and wraps around.
      With one forward pass, ten evenly spaced widths use each bin 5 or 6 times; ordinal sharing uses them 10 to 1
      times.

    Args:
        side: The side of the sharing rule.
        width: Number of channels used, one of ``widths``.
        widths: All choices, ascending. The last one is the number of channels of the weight.
        centered: Bilateral sharing of a pretrained network: both sides contain the middle, see ``centered_ranks``.

    Raises:
        ValueError: ``width`` is not one of ``widths``.
    """
    full = widths[-1]
    if centered and side != "cycle":
        before = core_start(widths)
        start = max(0, before - (width - widths[0])) if side == "left" else min(before, full - width)
        return (slice(start, start + width),)
    if side == "left":
        return (slice(0, width),)
    if side == "right":
        return (slice(full - width, full),)
    c = widths.index(width)
    start = (0, *widths)[c * (c + 1) // 2 % len(widths)]
    if start + width <= full:
        return (slice(start, start + width),)
    return slice(start, full), slice(0, start + width - full)


def core_start(widths: tuple[int, ...]) -> int:
    """Return the first of the channels that every width uses with centered sides: as many as the smallest width."""
    return (widths[-1] - widths[0]) // 2


def centered_ranks(widths: tuple[int, ...]) -> tuple[int, ...]:
    """Return the rank (0: most important) of the unit at each channel for bilateral sharing of a pretrained network.

    The most important units are the core, in the middle. The next ones alternate between its right and its left end.
    The left side of a width grows to the left of the core, then to the right; the right side the other way. So no side
    consists of the least important units, and channels that mirror each other are in equally many widths. At full
    width, both sides are the whole network. (The fixed core is the idea of CafeNet.)
    """
    first, core, full = core_start(widths), widths[0], widths[-1]
    order = list(range(first, first + core))
    for distance in range(full):
        order += [i for i in (first + core + distance, first - 1 - distance) if 0 <= i < full]
    ranks = {channel: rank for rank, channel in enumerate(order)}
    return tuple(ranks[channel] for channel in range(full))
