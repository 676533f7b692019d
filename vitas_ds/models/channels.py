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
def channel_slices(side: Side, width: int, widths: tuple[int, ...]) -> Slices:
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
