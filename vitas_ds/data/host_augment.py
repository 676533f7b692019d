"""Resize and augmentation of training images on the CPU: torch and Pillow in one Python function of the DALI graph.

The resize is torchvision's on uint8, bit for bit, in a fifth of the time of DALI's. Pillow's operations are those of
timm and torchvision themselves. One function for all of them avoids the cost of operators that DALI runs per image.
"""
# H and W height and width of the source image in pixels

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch.nn.functional import interpolate

from vitas_ds.data import augment as aug
from vitas_ds.data.processing import Recipe

ENHANCE = {
    aug.COLOR: ImageEnhance.Color,
    aug.CONTRAST: ImageEnhance.Contrast,
    aug.BRIGHTNESS: ImageEnhance.Brightness,
    aug.SHARPNESS: ImageEnhance.Sharpness,
}
JITTER = (aug.BRIGHTNESS, aug.CONTRAST, aug.COLOR)  # by the number of the operation
TABLES = (aug.INVERT, aug.POSTERIZE, aug.SOLARIZE, aug.SOLARIZE_ADD)

Batch = list[np.ndarray]


def operation_names(recipe: Recipe) -> tuple[str, ...]:
    """Return the draws that the function needs besides the crop."""
    names: list[str] = []
    if recipe.augment is not None and recipe.augment.color_jitter:
        names += [f"jitter_{kind}{i}" for i in range(3) for kind in ("op", "factor")]
    if recipe.augment is not None and recipe.augment.rand_augment:
        names += [f"{kind}{layer}" for layer in range(aug.LAYERS) for kind in ("op", "value", "matrix")]
    return tuple(names)


def make_function(recipe: Recipe, threads: int) -> Callable[..., Batch]:
    """Return the function of the graph: crops [H, W, 3] and draws of a batch to images of ``recipe.image_size``."""
    names, size = operation_names(recipe), recipe.image_size
    fill = tuple(round(255 * x) for x in recipe.mean)

    def process_one(crop: np.ndarray, *draws: np.ndarray) -> np.ndarray:
        small = resize(crop, size)
        return augment(small, dict(zip(names, draws, strict=True)), fill) if names else small

    def process(crops: Batch, *draws: Batch) -> Batch:
        return list((map if threads == 1 else _pool(threads).map)(process_one, crops, *draws))

    return process


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Thread pool of all pipelines.

    DALI never frees the Python functions of a graph. With one pool per pipeline, threads would accumulate.
    """
    return ThreadPoolExecutor(threads)


def resize(crop: np.ndarray, side: int) -> np.ndarray:
    """Resize [H, W, 3] uint8 to [side, side, 3]: bicubic with antialias."""
    image = torch.from_numpy(crop).permute(2, 0, 1)[None]
    small = interpolate(image, (side, side), mode="bicubic", antialias=True)
    return np.ascontiguousarray(small[0].permute(1, 2, 0))


def augment(pixels: np.ndarray, draws: Mapping[str, np.ndarray], fill: tuple[int, ...]) -> np.ndarray:
    """Apply the drawn operations of one image; ``fill`` is the color of pixels from outside of it."""
    image = Image.fromarray(pixels)
    for i in range(3):
        if f"jitter_op{i}" in draws:
            enhance = ENHANCE[JITTER[int(draws[f"jitter_op{i}"])]]
            image = enhance(image).enhance(float(draws[f"jitter_factor{i}"]))
    for layer in range(aug.LAYERS):
        if op := int(draws.get(f"op{layer}", 0)):
            image = apply(image, op, float(draws[f"value{layer}"]), draws[f"matrix{layer}"], fill)
    return np.asarray(image)


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
