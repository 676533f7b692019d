"""The teacher of a training: a trained network whose outputs another network learns (``losses.loss_with_teacher``).

Its weights are frozen. They belong neither to the engine nor to a checkpoint, which only records the digest.
"""
# B batch, C classes, H and W height and width in pixels

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitas_ds.config import Data
from vitas_ds.engine.precision import autocast

Normalization = tuple[tuple[float, float, float], tuple[float, float, float]]  # mean and std of RGB


@dataclass(frozen=True)
class TeacherNetwork:
    """A frozen network on the device of the images.

    Attributes:
        model: The network, in evaluation mode.
        digest: Digest of everything that its outputs depend on.
        precision: ``engine.precision``.
        scale: Factor [3, 1, 1] from the normalization of the images to that of the teacher; None if they are equal.
        shift: Added after scaling, [3, 1, 1].
        macs: Multiply-accumulates of an image; 0 if unknown.
    """

    model: nn.Module
    digest: str
    precision: str
    scale: Tensor | None = None
    shift: Tensor | None = None
    macs: int = 0

    @torch.no_grad()  # inference_mode would forbid to use the logits in a backward pass
    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits [B, C] float32 of normalized images [B, 3, H, W]."""
        if self.scale is not None and self.shift is not None:
            images = images * self.scale + self.shift
        with autocast(self.precision, images.device):
            return self.model(images).float()


def freeze(
    model: nn.Module, digest: str, normalization: Normalization, data: Data, precision: str, device: torch.device
) -> TeacherNetwork:
    """Return a trained network as a teacher.

    Args:
        model: The network; moved to ``device``.
        digest: See ``TeacherNetwork``.
        normalization: Mean and standard deviation of the teacher's images.
        data: Normalization of its input images. If it differs, they are normalized again, which is exact
            for mixed images too: it is linear.
        precision: ``engine.precision``.
        device: Device of the images.
    """
    model = model.to(device).eval().requires_grad_(False)
    scale, shift = _renormalize((data.mean, data.std), normalization)
    if scale == [1.0] * 3 and shift == [0.0] * 3:
        return TeacherNetwork(model, digest, precision)
    factor, offset = (torch.tensor(values, device=device).view(3, 1, 1) for values in (scale, shift))
    return TeacherNetwork(model, digest, precision, factor, offset)


def _renormalize(given: Normalization, wanted: Normalization) -> tuple[list[float], list[float]]:
    """Return scale and shift per channel: ``(x - mean') / std'`` of the pixels from ``(x - mean) / std``."""
    channels = list(zip(*given, *wanted, strict=True))
    scale = [std / new_std for _, std, _, new_std in channels]
    return scale, [(mean - new_mean) / new_std for mean, _, new_mean, new_std in channels]
