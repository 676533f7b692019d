"""Resize, augmentation and normalization of training images on the CPU, with torch and Pillow.

DALI decodes the crops. The resize is torchvision's on uint8, bit for bit, in a fifth of the time of DALI's; Pillow's
operations are those of timm and torchvision themselves.
"""
# B batch, S image_size, H and W height and width of a crop in pixels

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate

from vitas_ds.data import augment as aug
from vitas_ds.data.normalize import normalize_into
from vitas_ds.data.processing import Recipe

ENHANCE = {
    aug.COLOR: ImageEnhance.Color,
    aug.CONTRAST: ImageEnhance.Contrast,
    aug.BRIGHTNESS: ImageEnhance.Brightness,
    aug.SHARPNESS: ImageEnhance.Sharpness,
}
JITTER = (aug.BRIGHTNESS, aug.CONTRAST, aug.COLOR)  # by the number of the operation
TABLES = (aug.INVERT, aug.POSTERIZE, aug.SOLARIZE, aug.SOLARIZE_ADD)


def process(crops: Any, draws: Mapping[str, np.ndarray], recipe: Recipe, threads: int) -> Tensor:
    """Process the decoded crops [H, W, 3] of a batch, as the draws of ``augment.draw`` say.

    Returns:
        Normalized images [B, 3, S, S] float32.
    """
    out = torch.empty(len(crops), 3, recipe.image_size, recipe.image_size)
    fill = tuple(round(255 * x) for x in recipe.mean)
    operations = {name: draws[name] for name in draws if name.startswith(("jitter", "op", "value", "matrix"))}

    def process_one(i: int) -> None:
        image = resize(torch.from_dlpack(crops[i]), recipe.image_size)
        if operations:
            image = augment(image, {name: rows[i] for name, rows in operations.items()}, fill)
        normalize_into(out[i], image.flip(2) if draws["flip"][i] else image, recipe.mean, recipe.std)

    for _ in (map if threads == 1 else _pool(threads).map)(process_one, range(len(crops))):
        pass
    return out


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Thread pool of all pipelines."""
    return ThreadPoolExecutor(threads)


def resize(crop: Tensor, side: int) -> Tensor:
    """Resize [H, W, 3] uint8 to [3, side, side]: bicubic with antialias."""
    return interpolate(crop.permute(2, 0, 1)[None], (side, side), mode="bicubic", antialias=True)[0]


def augment(pixels: Tensor, draws: Mapping[str, Any], fill: tuple[int, ...]) -> Tensor:
    """Apply the drawn operations of one image [3, S, S]; ``fill`` is the color of pixels from outside of it."""
    layers = [layer for layer in range(aug.LAYERS) if draws.get(f"op{layer}")]
    if not layers and "jitter_op0" not in draws:
        return pixels
    size = pixels.shape[2], pixels.shape[1]
    # merging planes takes a quarter of the time of a transposition
    image = Image.merge(
        "RGB", [Image.frombuffer("L", size, plane, "raw", "L", 0, 1) for plane in pixels.contiguous().numpy()]
    )
    for i in range(3):
        if f"jitter_op{i}" in draws:
            enhance = ENHANCE[JITTER[int(draws[f"jitter_op{i}"])]]
            image = enhance(image).enhance(float(draws[f"jitter_factor{i}"]))
    for layer in layers:
        op, value = int(draws[f"op{layer}"]), float(draws[f"value{layer}"])
        image = apply(image, op, value, draws[f"matrix{layer}"], fill)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def apply(image: Image.Image, op: int, value: float, matrix: np.ndarray, fill: tuple[int, ...]) -> Image.Image:
    """Apply one operation of RandAugment with its argument or its matrix [2, 3], destination to source."""
    if op in ENHANCE:
        return ENHANCE[op](image).enhance(value)
    if op in TABLES:
        return image.point(_table(op, value))
    if op == aug.AUTO_CONTRAST:
        return ImageOps.autocontrast(image)
    if op == aug.EQUALIZE:
        return ImageOps.equalize(image)
    affine: Any = Image.Transform.AFFINE
    return image.transform(image.size, affine, matrix.ravel().tolist(), Image.Resampling.BILINEAR, fillcolor=fill)


@lru_cache(1024)
def _table(op: int, value: float) -> list[int]:
    """Return the new values of 0 ... 255, for each of the three channels."""
    x, argument = np.arange(256), int(value)
    if op == aug.POSTERIZE:
        x = x & argument
    elif op == aug.SOLARIZE_ADD:
        x = np.where(x < 128, x + argument, x)
    else:
        x = np.where(x >= (argument if op == aug.SOLARIZE else 0), 255 - x, x)
    return x.tolist() * 3
