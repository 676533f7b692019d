"""What a pipeline does to images, and how it fails. Importing this module does not import DALI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from vitas_ds.config import Augment
from vitas_ds.errors import UserError


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


def load_dali() -> Any:
    """Import the pipelines.

    Raises:
        UserError: DALI is not installed, or does not work on this machine.
    """
    try:
        from vitas_ds.data import dali
    except ImportError as error:
        raise UserError(
            f"NVIDIA DALI, which loads the images, cannot be imported ({error}); pip install -r requirements.txt, "
            "or measure without images: data.synthetic=true"
        ) from None
    return dali
