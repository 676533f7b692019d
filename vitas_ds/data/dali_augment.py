"""DALI operations of RandAugment and ColorJitter on uint8 HWC images. They follow Pillow up to rounding.

DALI converts the ``if`` statements on ``op``, which differs between images (``enable_conditionals``): it splits the
batch between the branches and merges their results.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from nvidia.dali import fn as dali_fn
from nvidia.dali import math
from nvidia.dali import types as dali_types

from vitas_ds.data import augment as aug

fn: Any = dali_fn
types: Any = dali_types
DROP_FRACTION = -0.499 / 255  # added before an operator rounds to integers: the result is truncated instead


def jitter(image: Any, op: Any, factor: Any) -> Any:
    """Apply one operation of torchvision's ColorJitter on Pillow images: brightness, contrast or saturation."""
    if op == 0:
        image = _brightness(image, factor)
    elif op == 1:
        image = _contrast(image, factor)
    else:
        image = _color(image, factor)
    return image


def rand_augment(image: Any, op: Any, value: Any, matrix: Any, mean: tuple[float, float, float]) -> Any:
    """Apply one operation of timm's RandAugment; ``op`` 0 keeps the image."""
    if op == aug.AUTO_CONTRAST:
        image = auto_contrast(image)
    elif op == aug.EQUALIZE:
        # Pillow accumulates the histogram from 0, DALI from 255: without the inversions the results differ
        image = _invert(fn.equalize(_invert(image)))
    elif op == aug.INVERT:
        image = _invert(image)
    elif op == aug.POSTERIZE:
        image = image & _byte(value, image)
    elif op == aug.SOLARIZE:
        image = image ^ ((image >= _byte(value, image)) * types.Constant(255, dtype=types.UINT8))
    elif op == aug.SOLARIZE_ADD:  # adds up to 110 to pixels below 128, so uint8 cannot overflow
        image = image + (image < types.Constant(128, dtype=types.UINT8)) * _byte(value, image)
    else:
        image = _enhance_or_warp(image, op, value, matrix, mean)
    return image


def _enhance_or_warp(image: Any, op: Any, value: Any, matrix: Any, mean: tuple[float, float, float]) -> Any:
    """Apply one of the operations with a factor or a matrix."""
    if op == aug.COLOR:
        image = _color(image, value)
    elif op == aug.CONTRAST:
        image = _contrast(image, value)
    elif op == aug.BRIGHTNESS:
        image = _brightness(image, value)
    elif op == aug.SHARPNESS:
        image = _sharpness(image, value)
    elif op != 0:
        image = _warp(image, matrix, mean)
    return image


def _invert(image: Any) -> Any:
    return image ^ types.Constant(255, dtype=types.UINT8)


def _put(node: Any, device: str) -> Any:
    return node.gpu() if device == "gpu" else node


def _byte(value: Any, image: Any) -> Any:
    return _put(fn.cast(value, dtype=types.UINT8), image.device)


def _pixels(value: Any) -> Any:
    """Convert float pixels to uint8 like Pillow: clipped to 0 ... 255, then truncated.

    ``brightness_contrast`` is a fast way to clip and cast, but rounds; hence DROP_FRACTION.
    """
    return fn.brightness_contrast(value, brightness_shift=DROP_FRACTION, dtype=types.UINT8)


def _gray(image: Any) -> Any:
    """Luma [H, W, 1] uint8."""
    return fn.color_space_conversion(image, image_type=types.RGB, output_type=types.GRAY)


def _brightness(image: Any, factor: Any) -> Any:
    return fn.brightness_contrast(image, brightness=factor, brightness_shift=DROP_FRACTION)


def _contrast(image: Any, factor: Any) -> Any:
    mean, factor = math.floor(fn.reductions.mean(_gray(image)) + 0.5), _put(factor, image.device)
    return _pixels(image * factor + (1 - factor) * mean)


def _color(image: Any, factor: Any) -> Any:
    factor = _put(factor, image.device)
    return _pixels(image * factor + _gray(image) * (1 - factor))


def _sharpness(image: Any, factor: Any) -> Any:
    """Blend with Pillow's SMOOTH filter, as a single filter. Pillow does not change the outermost pixels; this does."""
    smooth = types.Constant(np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13)
    identity = types.Constant(np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=np.float32))
    return fn.filter(image, smooth * (1 - factor) + identity * factor)


def auto_contrast(image: Any) -> Any:
    """Stretch each channel to 0 ... 255; a constant channel is not changed."""
    low = fn.cast(fn.reductions.min(image, axis_names="HW", keep_dims=True), dtype=types.FLOAT)
    high = fn.cast(fn.reductions.max(image, axis_names="HW", keep_dims=True), dtype=types.FLOAT)
    flat = fn.cast(high <= low, dtype=types.FLOAT)
    scale = (1 - flat) * 255 / (high - low + flat) + flat
    return _pixels(image * scale - (1 - flat) * low * scale)


def _warp(image: Any, matrix: Any, mean: tuple[float, float, float]) -> Any:
    """Bilinear affine transform like Pillow's: pixels from outside of the image get the mean color of the data.

    DALI's ``fill_value`` is one number for all channels and is blended into the border. Hence the image is extended
    beyond its border, and a mask with the same transform selects the pixels to fill.
    """
    color = np.rint(255 * np.array(mean)).astype(np.uint8).reshape(1, 1, 3)
    white = _gray(image) | types.Constant(255, dtype=types.UINT8)
    inside = fn.warp_affine(white, matrix=matrix, fill_value=0, interp_type=types.INTERP_NN)
    moved = fn.warp_affine(image, matrix=matrix, interp_type=types.INTERP_LINEAR)
    return (moved & inside) | (_invert(inside) & types.Constant(color, device=image.device))
