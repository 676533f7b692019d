"""Image processing of a pipeline, and its errors, without DALI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from vitas_ds.config import Augment

MAX_SIDE = 16_384  # pixels: larger images are decompression bombs
MAX_RATIO = 100  # long side / short side: evaluation resizes the short side, so 1 x 6000 would become 256 x 1,536,000


def size_problem(width: int, height: int) -> str | None:
    """Return why training, evaluation, scan and resize-data refuse an image of this size; None if they accept it."""
    if min(width, height) < 1 or max(width, height) > MAX_SIDE:
        return f"{width} x {height} pixels; a side has at most {MAX_SIDE:,}"
    if max(width, height) > MAX_RATIO * min(width, height):
        return f"{width} x {height} pixels; one side is more than {MAX_RATIO} times the other"
    return None


@dataclass(frozen=True)
class Recipe:
    """Image processing of a graph. Without ``augment``, it is the preprocessing of evaluation."""

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: int = 0  # evaluation: length of the shorter side
    augment: Augment | None = None
    uint8: bool = False  # evaluation: skip normalization and return uint8 pixels [3, H, W]
    source: Literal["file", "bytes"] = "file"  # input: the path of a file as bytes, or an encoded image
    decoder: Literal["auto", "host"] = "auto"  # host: decode on the CPU on GPUs too


class BadImages(Exception):
    """DALI failed to decode. At least one batch of ``pending`` (oldest first) contains an unreadable image."""

    def __init__(self, pending: list[Any], message: str):
        super().__init__(message)
        self.pending = pending
