"""RandAugment and ColorJitter on uint8 HWC images in the GPU graph. The results follow Pillow up to rounding.

Every image passes the same operators; the parameters of ``point_ops.py`` decide which of them change it. Branches on
the operation (``enable_conditionals``) would cost two operators for each tensor in each branch, more than they skip.
Only ``stretch`` and ``equalize`` have no neutral parameters.
"""
# C channels

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from nvidia.dali import fn as dali_fn
from nvidia.dali import math
from nvidia.dali import types as dali_types

from vitas_ds.data.point_ops import TRUNCATE

fn: Any = dali_fn
types: Any = dali_types


def jitter(image: Any, matrix: Any) -> Any:
    """Apply one operation of torchvision's ColorJitter on Pillow images: a map of (pixel, luma, mean luma)."""
    gray = fn.color_space_conversion(image, image_type=types.RGB, output_type=types.GRAY)
    mean = _mean(gray)
    return _map_channels(fn.cat(image, gray, math.clamp(gray, mean, mean), axis=2), matrix)


def rand_augment(image: Any, layer: Mapping[str, Any], mean: tuple[float, float, float], image_size: int) -> Any:
    """Apply one operation of timm's RandAugment to each image; ``layer`` are the tensors of ``layer_inputs``."""
    image = fn.filter(_warp(image, layer["warp"], mean, image_size), layer["kernel"])
    channels = _map_channels(image, layer["first"])
    if layer["stretch"]:
        channels = _stretch(channels)
    if layer["equalize"]:
        channels = fn.equalize(channels)
    averages = _mean(channels) & _put(layer["average"], image.device)
    # where a channel is averaged, the second map returns 0
    channels = math.max(_map_channels(channels, layer["second"]), averages)
    return _map_channels(channels, layer["third"]) & _put(layer["bits"], image.device)


def _put(node: Any, device: str) -> Any:
    return node.gpu() if device == "gpu" else node


def _map_channels(image: Any, matrix: Any) -> Any:
    """Apply an affine map [D, C + 1] to each pixel; round and clip to uint8."""
    return fn.coord_transform(image, MT=matrix, dtype=types.UINT8)


def _mean(image: Any) -> Any:
    """Mean of each channel [1, 1, C], rounded to uint8."""
    return fn.cast(fn.reductions.mean(image, axis_names="HW", keep_dims=True), dtype=types.UINT8)


def _stretch(channels: Any) -> Any:
    """Stretch each of (x, 255 - x) to 0 ... 255, and negate: the last three channels are Pillow's autocontrast of x.

    A constant channel is not changed.
    """
    high = fn.reductions.max(channels, axis_names="HW", keep_dims=True)
    # the maxima are h = max(x) and 255 - min(x). In both halves:
    both = np.tile(np.eye(3), (2, 2))
    constant = _map_channels(high, _affine(-255 * both, 255 + 255 * 255))  # 255 where h = min(x), else 0
    high = high | constant
    width = fn.coord_transform(high, MT=_affine(both, -255), dtype=types.FLOAT)  # h - min(x)
    scale = 255.0 / width
    return fn.brightness_contrast((high - channels) * scale, brightness_shift=TRUNCATE / 255, dtype=types.UINT8)


def _affine(matrix: np.ndarray, constant: float) -> list[float]:
    """Return [D, C + 1] in one list, as DALI takes it."""
    return np.insert(matrix, matrix.shape[1], constant, axis=1).ravel().tolist()


def _warp(image: Any, matrix: Any, mean: tuple[float, float, float], image_size: int) -> Any:
    """Bilinear affine transform like Pillow's: pixels from outside of the image get the mean color of the data.

    DALI's ``fill_value`` is one number for all channels and is blended into the border. Hence the image is extended
    beyond its border, and a mask with the same transform selects the pixels to fill.
    """
    white = np.full((image_size, image_size, 1), 255, np.uint8)
    color = np.rint(255 * np.array(mean)).astype(np.uint8).reshape(1, 1, 3)
    color = types.Constant(color, device=image.device)
    white = types.Constant(white, device=image.device, layout="HWC")
    inside = fn.warp_affine(white, matrix=matrix, fill_value=0, interp_type=types.INTERP_NN)
    moved = fn.warp_affine(image, matrix=matrix, interp_type=types.INTERP_LINEAR)
    return ((moved ^ color) & inside) ^ color
