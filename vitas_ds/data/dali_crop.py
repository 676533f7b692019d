"""DALI operations that decode, crop and resize an image: the geometry of evaluation and of RandomResizedCrop.

The results equal torchvision's. DALI's own rounding of sizes and positions differs, so they are computed here.
"""
# H and W height and width of the source image in pixels

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from nvidia.dali import fn as dali_fn
from nvidia.dali import math
from nvidia.dali import types as dali_types

from vitas_ds.config import Augment
from vitas_ds.data.augment import TRIES
from vitas_ds.data.processing import MAX_RATIO, MAX_SIDE

fn: Any = dali_fn
types: Any = dali_types


def center_crop(encoded: Any, resize: int, image_size: int, device: str, decoder: str) -> Any:
    """Decode, Resize(resize, bicubic, antialias) and CenterCrop(image_size) with torchvision's rounding: uint8 HWC.

    DALI alone rounds the longer side and the crop position differently, which shifts pixels.
    """
    shape = fn.peek_image_shape(encoded, adjust_orientation=False, dtype=types.INT32)
    short = fn.reductions.min(shape[0:2])
    height, width = resize * shape[0] // short, resize * shape[1] // short
    # Decode the whole image as a slice: the decoder then depends on the shape and runs after peek_image_shape. Without
    # this dependency, both operators fail at the same time on a bad file, and DALI 2.4 crashes in its executor.
    outside = _outside_if_refused(shape[0], shape[1], _scale(shape[0], shape[1]))
    image = _decode_slice(encoded, fn.stack(outside, outside), shape[0:2], device, decoder)
    size = fn.cast(fn.stack(height, width), dtype=types.FLOAT)
    # The filter reaches 2 pixels: of the output when it shrinks the image, of the source when it enlarges it.
    margin = (resize - image_size) // 2
    if (margin < 3) | (margin * short < 3 * resize):
        image = _resize_with_borders(image, size, short, shape, resize)
    else:
        image = fn.resize(image, size=size, interp_type=types.INTERP_CUBIC, antialias=True, subpixel_scale=False)
    corner = fn.stack(_half(height - image_size), _half(width - image_size))
    side = types.Constant(np.array([image_size] * 2, np.int32))
    return fn.slice(image, corner, side, axis_names="HW", normalized_anchor=False, normalized_shape=False)


def random_crop(encoded: Any, inputs: Mapping[str, Any], augment: Augment, device: str, decoder: str) -> Any:
    """Decode the crop of torchvision's RandomResizedCrop: uint8 HWC.

    The crop is the first attempt that fits into the image, or a central crop if none does. Height and width are
    computed together, as the rows of a tensor, because every operator costs time for every image.
    """
    shape = fn.peek_image_shape(encoded, adjust_orientation=False, dtype=types.INT32)
    sides, height, width = shape[0:2], shape[0], shape[1]
    scale = _scale(height, width)
    tries = fn.cast(inputs["crop"] * scale, dtype=types.INT32)  # this cast rounds
    limits = types.Constant(np.array([1 / augment.ratio[0], augment.ratio[1]]))
    center = math.min(sides, fn.cast(fn.stack(width, height) * limits, dtype=types.INT32))
    sizes = fn.cat(tries, fn.reshape(center, shape=[2, 1]), axis=1)  # [2, TRIES + 1]; the last one always fits
    fits = math.clamp(sizes, 1, fn.reshape(sides, shape=[2, 1])) == sizes
    score = fn.reductions.min(fits * types.Constant(np.arange(TRIES + 1, 0, -1, dtype=np.int32)), axes=0)
    best = fn.reductions.max(score)
    size = fn.reductions.sum(sizes * (score == best), axes=1)
    # position: at * (sides - size + 1), and for the central crop (sides - size) / 2, both rounded down
    drawn = best > 1
    at = (inputs["crop_at"] - 0.5) * drawn + 0.5
    corner = fn.cast(math.floor(at * (sides - size + drawn)), dtype=types.INT32)
    corner = corner + _outside_if_refused(height, width, scale)
    return _decode_slice(encoded, corner, fn.cast(size, dtype=types.INT32), device, decoder)


def _scale(height: Any, width: Any) -> Any:
    """Return the root of the number of pixels, float64."""
    return math.sqrt(fn.cast(height, dtype=types.FLOAT64) * width)


def _outside_if_refused(height: Any, width: Any, scale: Any) -> Any:
    """Return a coordinate outside of an image that ``size_problem`` refuses, which the decoder reports; else 0.

    ``scale`` is the root of the number of pixels: long > 100 * short is the same as long > 10 * scale.
    """
    limit = math.min(scale * int(MAX_RATIO**0.5), float(MAX_SIDE))
    return (math.max(height, width) > limit) * types.Constant(1 << 30, dtype=types.INT32)


def _decode_slice(encoded: Any, corner: Any, size: Any, device: str, decoder: str) -> Any:
    """Decode a box (corner and size in pixels, HW) to RGB uint8 HWC. The EXIF orientation is ignored, as by Pillow."""
    image = fn.decoders.image_slice(
        encoded, corner, size, normalized_anchor=False, normalized_shape=False, axis_names="HW",
        output_type=types.RGB, adjust_orientation=False, **_decoder(decoder),
    )  # fmt: skip
    return image.gpu() if (device, decoder) == ("gpu", "cpu") else image


def _decoder(device: str) -> dict[str, Any]:
    """Options of the JPEG decoder.

    With the defaults on a GPU, pixels differ from the CPU's by 1.9 of 255 on average (simple chroma upsampling), and
    they depend on the position of an image in the batch (a share of each batch goes to the hardware decoder). With
    these options the difference is below 0.04, and the decoder is chosen by the image alone.
    """
    if device == "cpu":
        return {"device": "cpu"}
    return {"device": "mixed", "jpeg_fancy_upsampling": True, "hw_decoder_load": 1.0}


def _resize_with_borders(image: Any, size: Any, short: Any, shape: Any, resize: int) -> Any:
    """Bicubic resize of uint8 HWC that equals torchvision's at the image borders too.

    DALI repeats the border pixel outside of the image. torchvision and Pillow drop the filter taps there and rescale
    the others. This function pads with zeros, adds a fourth channel of ones inside of the image, and divides by the
    resized fourth channel.
    """
    reach = 2 * short // resize + 4
    padded = fn.pad(image, axis_names="C", shape=[4], fill_value=255)
    padded = fn.slice(
        padded, fn.stack(-reach, -reach), shape[0:2] + 2 * reach, axis_names="HW", normalized_anchor=False,
        normalized_shape=False, out_of_bounds_policy="pad", fill_values=0,
    )  # fmt: skip
    start = fn.cast(fn.stack(reach, reach), dtype=types.FLOAT)
    end = start + fn.cast(shape[0:2], dtype=types.FLOAT)
    padded = fn.resize(padded, size=size, roi_start=start, roi_end=end, interp_type=types.INTERP_CUBIC, antialias=True,
                       subpixel_scale=False, dtype=types.FLOAT)  # fmt: skip
    inside = padded[:, :, 3:4]
    return fn.cast(math.floor(math.clamp(padded[:, :, 0:3] * 255 / inside, 0, 255) + 0.5), dtype=types.UINT8)


def _half(difference: Any) -> Any:
    """Half of an integer, rounded half to even like Python's ``round``."""
    half = difference // 2
    return half + (difference - 2 * half) * (half - 2 * (half // 2))


def resize(image: Any, side: int) -> Any:
    """Resize to [side, side] with DALI: bicubic with antialias, uint8 HWC."""
    return fn.resize(image, size=[side, side], interp_type=types.INTERP_CUBIC, antialias=True)
