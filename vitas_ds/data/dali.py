"""The DALI graphs, and the one loop that runs them. The sole import of nvidia.dali.

The same graph serves GPU (mixed decoding, GPU operators) and CPU, but for the resize of training images. It holds no
random operator: what varies between images comes in as data (``augment.py``), so that there is no state to save.
H, W = sides of a source image in pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from nvidia.dali import Pipeline, math, pipeline_def
from nvidia.dali import fn as dali_fn
from nvidia.dali import types as dali_types
from nvidia.dali.pipeline import do_not_convert
from torch import Tensor
from torch.nn.functional import interpolate

from vitas_ds.config import Augment
from vitas_ds.data import augment as aug

fn: Any = dali_fn  # their names are made at run time
types: Any = dali_types
Arrays = dict[str, Any]  # name -> array [B, ...] or list of B arrays
DROP_FRACTION = -0.499 / 255  # added before rounding to a whole number
PREFETCH = 2  # batches that DALI works ahead
# What the graph reads: name -> (type, dimensions of a sample)
TYPES: dict[str, tuple[Any, int]] = {
    "file": (types.UINT8, 1),
    "bytes": (types.UINT8, 1),
    "crop_h": (types.FLOAT64, 1),
    "crop_w": (types.FLOAT64, 1),
    "crop_at": (types.FLOAT64, 1),
    "flip": (types.INT32, 0),
    "jitter_op": (types.INT32, 0),
    "jitter_factor": (types.FLOAT, 0),
    "op": (types.INT32, 0),
    "value": (types.FLOAT, 0),
    "matrix": (types.FLOAT, 2),
}


@dataclass(frozen=True)
class Recipe:
    """What a graph does. ``augment`` None: evaluation preprocessing."""

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: int = 0  # evaluation: the shorter side
    augment: Augment | None = None
    uint8: bool = False  # evaluation: leave the pixels as they are, [3, H, W] uint8


def input_names(recipe: Recipe, source: str) -> tuple[str, ...]:
    """Names of a graph's inputs; ``source`` is file (a path as bytes) or bytes (an encoded image)."""
    if recipe.augment is None:
        return (source,)
    names = [source, "crop_h", "crop_w", "crop_at", "flip"]
    if recipe.augment.color_jitter:
        names += [f"jitter_{kind}{i}" for i in range(3) for kind in ("op", "factor")]
    if recipe.augment.rand_augment:
        names += [f"{kind}{layer}" for layer in range(aug.LAYERS) for kind in ("op", "value", "matrix")]
    return tuple(names)


def build(recipe: Recipe, feed: Callable[[], Sequence[Any]], source: str, batch_size: int, threads: int,
          device_id: int | None, device: str | None = None, prefetch: int = PREFETCH) -> Pipeline:  # fmt: skip
    """A pipeline whose output is images [B, 3, image_size, image_size].

    Args:
        feed: called once a batch; gives the inputs of :func:`input_names`, raises StopIteration at the end.
        device_id: the GPU, or None for the CPU.
        device: "gpu" builds the GPU graph whatever ``device_id`` is, to be serialised and not run.
        prefetch: batches that DALI works ahead.
    """
    device = device or ("cpu" if device_id is None else "gpu")
    return _graph(recipe, feed, source, device, batch_size=batch_size, num_threads=threads, device_id=device_id,
                  prefetch_queue_depth=prefetch)  # fmt: skip


class BadImages(Exception):
    """DALI could not decode: ``pending`` are the batches, oldest first, of which one or more is at fault."""

    def __init__(self, pending: list[Any], message: str):
        super().__init__(message)
        self.pending = pending


def stream(recipe: Recipe, batches: Iterator[tuple[Any, Arrays]], source: str, batch_size: int, threads: int,
           device_id: int | None) -> Iterator[tuple[Any, Tensor]]:  # fmt: skip
    """Run the graph over ``batches`` of (tag, inputs by name); yields (tag, images [B, 3, H, W]) in their order.

    Raises:
        BadImages: an image could not be read or decoded; the stream is over.
    """
    names = input_names(recipe, source)
    pending: deque[Any] = deque()

    def feed() -> list[Any]:
        tag, inputs = next(batches)
        pending.append(tag)
        return [inputs[name] for name in names]

    pipe = build(recipe, feed, source, batch_size, threads, device_id)
    while True:
        try:
            (images,) = pipe.run(None if device_id is None else torch.cuda.current_stream(device_id))
        except StopIteration:
            return
        except RuntimeError as error:
            raise BadImages(list(pending), str(error)) from None
        # no copy: DALI's default executor leaves the memory alone until the tensor is freed, on a GPU by that stream
        yield pending.popleft(), torch.from_dlpack(images.as_tensor())


def readable(recipe: Recipe, items: Iterable[Arrays], source: str, device_id: int | None = None) -> Iterator[bool]:
    """Whether DALI can read and decode each item (inputs by name, of one image each), one by one.

    The crop matters: of a file that is cut off, the part above the cut can be decoded.
    """
    light = replace(recipe, image_size=8, resize=32, augment=recipe.augment and _only_crop(recipe.augment))
    names = input_names(light, source)
    feed = ([item[name] for name in names] for item in items)
    while True:
        pipe = build(light, lambda: next(feed), source, 1, 1, device_id, prefetch=1)
        try:
            while True:
                pipe.run()
                yield True
        except StopIteration:
            return
        except RuntimeError:  # after an error a pipeline is not to be used
            yield False


def _only_crop(augment: Augment) -> Augment:
    return augment.model_copy(update={"color_jitter": 0.0, "rand_augment": None})


@pipeline_def(enable_conditionals=True)
def _graph(recipe: Recipe, feed: Callable[[], Sequence[Any]], source: str, device: str) -> Any:
    inputs = _inputs(recipe, feed, source)
    encoded = fn.io.file.read(inputs["file"]) if source == "file" else inputs["bytes"]
    if recipe.augment is None:
        image = _centre(encoded, recipe, device)
    else:
        image = _random_crop(encoded, inputs, recipe.augment, recipe.image_size, device)
    if recipe.augment is not None and recipe.augment.color_jitter:
        for i in range(3):
            image = _jitter(image, inputs[f"jitter_op{i}"], inputs[f"jitter_factor{i}"])
    if recipe.augment is not None and recipe.augment.rand_augment:
        for i in range(aug.LAYERS):
            image = _rand_augment(image, inputs[f"op{i}"], inputs[f"value{i}"], inputs[f"matrix{i}"], recipe)
    if recipe.uint8:
        return fn.transpose(image, perm=[2, 0, 1])
    mirror = 0 if recipe.augment is None else inputs["flip"]
    mean, std = [255 * x for x in recipe.mean], [255 * x for x in recipe.std]
    return fn.crop_mirror_normalize(image, mirror=mirror, mean=mean, std=std, dtype=types.FLOAT, output_layout="CHW")


@do_not_convert
def _inputs(recipe: Recipe, feed: Callable[[], Sequence[Any]], source: str) -> Arrays:
    names = input_names(recipe, source)
    kinds = [TYPES[name.rstrip("012")] for name in names]
    nodes = fn.external_source(
        source=feed, num_outputs=len(names), batch=True, dtype=[kind for kind, _ in kinds], ndim=[d for _, d in kinds]
    )
    return dict(zip(names, nodes, strict=True))


def _put(node: Any, device: str) -> Any:
    return node.gpu() if device == "gpu" else node


def _decoder(device: str) -> dict[str, Any]:
    """Options of the JPEG decoder.

    On a GPU the defaults give pixels that are 1.9 of 255 away from the CPU's on average (simple chroma upsampling), and
    that depend on an image's place in the batch (a share of each batch goes to the hardware decoder). With these
    options the distance is below 0.04, and the image alone decides which decoder it goes to.
    """
    if device == "cpu":
        return {"device": "cpu"}
    return {"device": "mixed", "jpeg_fancy_upsampling": True, "hw_decoder_load": 1.0}


def _centre(encoded: Any, recipe: Recipe, device: str) -> Any:
    """torchvision's Resize(resize, bicubic, antialias) and CenterCrop(image_size), with its rounding: uint8 HWC.

    Left to its own, DALI rounds the long side and the crop's place otherwise, which moves pixels.
    """
    shape = fn.cast(fn.peek_image_shape(encoded, adjust_orientation=False), dtype=types.INT32)
    short = fn.reductions.min(shape[0:2])
    height, width = recipe.resize * shape[0] // short, recipe.resize * shape[1] // short
    # The whole image, but as a slice: so the decoder waits for the shape. Were both to fail on a bad file at the same
    # time, which they do if they need not wait for each other, DALI 2.4 would crash in its executor.
    image = fn.decoders.image_slice(
        encoded, types.Constant(np.zeros(2, np.int32)), shape[0:2], normalized_anchor=False, normalized_shape=False,
        axis_names="HW", output_type=types.RGB, adjust_orientation=False, **_decoder(device),
    )  # fmt: skip
    size = fn.cast(fn.stack(height, width), dtype=types.FLOAT)
    # the filter reaches 2 pixels, of the output where it shrinks and of the source where it grows
    margin = (recipe.resize - recipe.image_size) // 2
    if (margin < 3) | (margin * short < 3 * recipe.resize):
        image = _resize_to_the_edge(image, size, short, shape, recipe.resize)
    else:
        image = fn.resize(image, size=size, interp_type=types.INTERP_CUBIC, antialias=True, subpixel_scale=False)
    at = fn.stack(_half(height - recipe.image_size), _half(width - recipe.image_size))
    side = types.Constant(np.array([recipe.image_size] * 2, np.int32))
    return fn.slice(image, at, side, axis_names="HW", normalized_anchor=False, normalized_shape=False)


def _resize_to_the_edge(image: Any, size: Any, short: Any, shape: Any, resize: int) -> Any:
    """Bicubic resize of uint8 HWC that equals torchvision's at the image's edge too.

    Beyond the edge DALI repeats the last pixel, while torchvision (and Pillow) leave out the filter's taps there and
    scale up the others. So: zeros around, a fourth channel that is 1 inside, and divide by what comes of it.
    """
    reach = 2 * short // resize + 4
    around = fn.pad(image, axis_names="C", shape=[4], fill_value=255)
    around = fn.slice(
        around, fn.stack(-reach, -reach), shape[0:2] + 2 * reach, axis_names="HW", normalized_anchor=False,
        normalized_shape=False, out_of_bounds_policy="pad", fill_values=0,
    )  # fmt: skip
    start = fn.cast(fn.stack(reach, reach), dtype=types.FLOAT)
    end = start + fn.cast(shape[0:2], dtype=types.FLOAT)
    around = fn.resize(around, size=size, roi_start=start, roi_end=end, interp_type=types.INTERP_CUBIC, antialias=True,
                       subpixel_scale=False, dtype=types.FLOAT)  # fmt: skip
    inside = around[:, :, 3:4]
    return fn.cast(math.floor(math.clamp(around[:, :, 0:3] * 255 / inside, 0, 255) + 0.5), dtype=types.UINT8)


def _half(difference: Any) -> Any:
    """difference / 2, rounded half to even as Python's round does."""
    half = difference // 2
    return half + (difference - 2 * half) * (half - 2 * (half // 2))


def _random_crop(encoded: Any, inputs: Arrays, augment: Augment, image_size: int, device: str) -> Any:
    """torchvision's RandomResizedCrop: the first try that fits, else the centre; bicubic with antialias: uint8 HWC."""
    shape = fn.cast(fn.peek_image_shape(encoded, adjust_orientation=False), dtype=types.FLOAT64)
    h, w = shape[0], shape[1]
    side = math.sqrt(h * w)
    try_h = fn.cast(math.floor(inputs["crop_h"] * side + 0.5), dtype=types.FLOAT)
    try_w = fn.cast(math.floor(inputs["crop_w"] * side + 0.5), dtype=types.FLOAT)
    fits = (try_h >= 1) & (try_h <= h) & (try_w >= 1) & (try_w <= w)
    countdown = types.Constant(np.arange(aug.TRIES, 0, -1, dtype=np.float32))
    score = fn.cast(fits, dtype=types.FLOAT) * countdown
    best = fn.reductions.max(score)
    first = fn.cast((score == best) & fits, dtype=types.FLOAT)  # all 0 where nothing fits
    none = fn.cast(best == 0, dtype=types.FLOAT)
    centre_h = math.min(h, math.floor(w / augment.ratio[0] + 0.5))
    centre_w = math.min(w, math.floor(h * augment.ratio[1] + 0.5))
    crop_h = fn.reductions.sum(first * try_h) + none * centre_h
    crop_w = fn.reductions.sum(first * try_w) + none * centre_w
    at = inputs["crop_at"]
    top = none * math.floor((h - crop_h) / 2) + (1 - none) * math.floor(at[0] * (h - crop_h + 1))
    left = none * math.floor((w - crop_w) / 2) + (1 - none) * math.floor(at[1] * (w - crop_w + 1))
    image = fn.decoders.image_slice(
        encoded, fn.cast(fn.stack(top, left), dtype=types.INT32), fn.cast(fn.stack(crop_h, crop_w), dtype=types.INT32),
        normalized_anchor=False, normalized_shape=False, axis_names="HW", output_type=types.RGB,
        adjust_orientation=False, **_decoder(device),
    )  # fmt: skip
    return _squeeze_on_cpu(image, image_size) if device == "cpu" else _squeeze(image, image_size)


def _squeeze(image: Any, side: int) -> Any:
    """Bicubic resize with antialias to [side, side], uint8 HWC."""
    return fn.resize(image, size=[side, side], interp_type=types.INTERP_CUBIC, antialias=True)


@do_not_convert
def _squeeze_on_cpu(image: Any, side: int) -> Any:
    """The same by torch, whose kernel for uint8 needs a fifth of DALI's time on a CPU: torchvision's, bit for bit."""
    threads = Pipeline.current().num_threads

    def squeeze(pixels: np.ndarray) -> np.ndarray:
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        small = interpolate(image, (side, side), mode="bicubic", antialias=True)
        return np.ascontiguousarray(small[0].permute(1, 2, 0))

    def squeeze_all(images: list[np.ndarray]) -> list[np.ndarray]:
        return list(map(squeeze, images) if threads == 1 else _pool(threads).map(squeeze, images))

    return fn.python_function(image, function=squeeze_all, batch_processing=True, output_layouts="HWC")


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """One for all pipelines: DALI keeps a graph's Python functions, and what they hold, for good."""
    return ThreadPoolExecutor(threads)


def _jitter(image: Any, op: Any, factor: Any) -> Any:
    """One of ColorJitter's three, as torchvision on PIL images."""
    if op == 0:
        image = _brightness(image, factor)
    elif op == 1:
        image = _contrast(image, factor)
    else:
        image = _color(image, factor)
    return image


def _rand_augment(image: Any, op: Any, value: Any, matrix: Any, recipe: Recipe) -> Any:
    """One operation of timm's RandAugment on uint8 HWC; ``op`` 0 leaves the image alone."""
    if op == aug.AUTO_CONTRAST:
        image = _auto_contrast(image)
    elif op == aug.EQUALIZE:
        image = _invert(fn.equalize(_invert(image)))  # Pillow sums the histogram from below, DALI from above
    elif op == aug.INVERT:
        image = _invert(image)
    elif op == aug.POSTERIZE:
        image = image & _byte(value, image)
    elif op == aug.SOLARIZE:
        image = image ^ ((image >= _byte(value, image)) * types.Constant(255, dtype=types.UINT8))
    elif op == aug.SOLARIZE_ADD:  # of value up to 110 to pixels below 128
        image = image + (image < types.Constant(128, dtype=types.UINT8)) * _byte(value, image)
    elif op == aug.COLOR:
        image = _color(image, value)
    elif op == aug.CONTRAST:
        image = _contrast(image, value)
    elif op == aug.BRIGHTNESS:
        image = _brightness(image, value)
    elif op == aug.SHARPNESS:
        image = _sharpness(image, value)
    elif op != 0:
        image = _warp(image, matrix, recipe)
    return image


def _invert(image: Any) -> Any:
    return image ^ types.Constant(255, dtype=types.UINT8)


def _byte(value: Any, image: Any) -> Any:
    return _put(fn.cast(value, dtype=types.UINT8), image.device)


def _pixels(value: Any) -> Any:
    """Float pixels as Pillow stores them: cut to 0 ... 255, fraction dropped. (The operator rounds, and is fast.)"""
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
    """Blend with Pillow's SMOOTH filter as one filter. (Pillow leaves the border of one pixel alone.)"""
    smooth = types.Constant(np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13)
    same = types.Constant(np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=np.float32))
    return fn.filter(image, smooth * (1 - factor) + same * factor)


def _auto_contrast(image: Any) -> Any:
    """Stretch each channel to 0 ... 255; a channel of one value stays."""
    low = fn.cast(fn.reductions.min(image, axis_names="HW", keep_dims=True), dtype=types.FLOAT)
    high = fn.cast(fn.reductions.max(image, axis_names="HW", keep_dims=True), dtype=types.FLOAT)
    flat = fn.cast(high <= low, dtype=types.FLOAT)
    scale = (1 - flat) * 255 / (high - low + flat) + flat
    return _pixels(image * scale - (1 - flat) * low * scale)


def _warp(image: Any, matrix: Any, recipe: Recipe) -> Any:
    """Affine map, bilinear, the outside filled with the data's mean colour, as Pillow does it.

    DALI fills with one number and blends it into the border; so the image goes on beyond its border, and a mask that
    goes the same way says where it ends.
    """
    colour = np.rint(255 * np.array(recipe.mean)).astype(np.uint8).reshape(1, 1, 3)
    whole = _gray(image) | types.Constant(255, dtype=types.UINT8)
    inside = fn.warp_affine(whole, matrix=matrix, fill_value=0, interp_type=types.INTERP_NN)
    moved = fn.warp_affine(image, matrix=matrix, interp_type=types.INTERP_LINEAR)
    return (moved & inside) | (_invert(inside) & types.Constant(colour, device=image.device))
