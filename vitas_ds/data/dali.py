"""DALI pipelines and the loop that runs them.

One graph definition serves GPUs (mixed decoding, GPU operators) and CPUs; only the resize of training images differs.
The graph has no random operators: everything that varies between images is an input (``augment.py``), and a pipeline
has no state to save.
"""
# B batch, H and W height and width in pixels

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from nvidia.dali import Pipeline, pipeline_def
from nvidia.dali import fn as dali_fn
from nvidia.dali import types as dali_types
from nvidia.dali.pipeline import do_not_convert
from torch import Tensor

from vitas_ds.config import Augment
from vitas_ds.data import augment as aug
from vitas_ds.data.dali_augment import jitter, rand_augment
from vitas_ds.data.dali_crop import center_crop, random_crop

fn: Any = dali_fn  # DALI generates the functions of these modules at run time, so mypy does not know them
types: Any = dali_types
Arrays = dict[str, Any]  # name -> array [B, ...] or list of B arrays
PREFETCH = 2  # batches that DALI prepares in advance
# Inputs of the graph: name -> (type, dimensions of a sample)
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
    """Image processing of a graph. Without ``augment``, it is the preprocessing of evaluation."""

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: int = 0  # evaluation: length of the shorter side
    augment: Augment | None = None
    uint8: bool = False  # evaluation: skip normalization and return uint8 pixels [3, H, W]
    source: Literal["file", "bytes"] = "file"  # input: the path of a file as bytes, or an encoded image


def input_names(recipe: Recipe) -> tuple[str, ...]:
    """Return the names of a graph's inputs."""
    if recipe.augment is None:
        return (recipe.source,)
    names: list[str] = [recipe.source, "crop_h", "crop_w", "crop_at", "flip"]
    if recipe.augment.color_jitter:
        names += [f"jitter_{kind}{i}" for i in range(3) for kind in ("op", "factor")]
    if recipe.augment.rand_augment:
        names += [f"{kind}{layer}" for layer in range(aug.LAYERS) for kind in ("op", "value", "matrix")]
    return tuple(names)


def build(recipe: Recipe, feed: Callable[[], Sequence[Any]], batch_size: int, threads: int, device_id: int | None,
          device: str | None = None, prefetch: int = PREFETCH) -> Pipeline:  # fmt: skip
    """Build a pipeline that returns images [B, 3, image_size, image_size].

    Args:
        recipe: The image processing.
        feed: Called once per batch; returns the inputs of ``input_names``, or raises StopIteration at the end.
        batch_size: Largest batch.
        threads: Number of CPU threads.
        device_id: GPU, or None for the CPU.
        device: "gpu" builds the GPU graph without a GPU, to serialize it; it cannot run.
        prefetch: Batches that DALI prepares in advance.
    """
    device = device or ("cpu" if device_id is None else "gpu")
    return _graph(recipe, feed, device, batch_size=batch_size, num_threads=threads, device_id=device_id,
                  prefetch_queue_depth=prefetch)  # fmt: skip


class BadImages(Exception):
    """DALI failed to decode. At least one batch of ``pending`` (oldest first) contains an unreadable image."""

    def __init__(self, pending: list[Any], message: str):
        super().__init__(message)
        self.pending = pending


def stream(recipe: Recipe, batches: Iterator[tuple[Any, Arrays]], batch_size: int, threads: int,
           device_id: int | None) -> Iterator[tuple[Any, Tensor]]:  # fmt: skip
    """Run the graph over ``batches`` of (tag, inputs by name); yield (tag, images [B, 3, H, W]) in the same order.

    Raises:
        BadImages: An image cannot be read or decoded. The stream ends.
    """
    names = input_names(recipe)
    pending: deque[Any] = deque()

    def feed() -> list[Any]:
        tag, inputs = next(batches)
        pending.append(tag)
        return [inputs[name] for name in names]

    pipe = build(recipe, feed, batch_size, threads, device_id)
    while True:
        try:
            (images,) = pipe.run(None if device_id is None else torch.cuda.current_stream(device_id))
        except StopIteration:
            return
        except RuntimeError as error:
            raise BadImages(list(pending), str(error)) from None
        # No copy is needed: DALI's default executor does not reuse the memory before the tensor is freed, and on a GPU
        # not before the current stream is done with it. With an older executor the next run would overwrite it.
        yield pending.popleft(), torch.from_dlpack(images.as_tensor())


def readable(recipe: Recipe, items: Iterable[Arrays], device_id: int | None = None) -> Iterator[bool]:
    """Yield for each item (the inputs of one image, by name) whether DALI can read and decode it.

    The crop is applied as in ``recipe``: of a truncated file, the part above the cut can be decoded.
    """
    light = replace(recipe, image_size=8, resize=32, augment=recipe.augment and _only_crop(recipe.augment))
    names = input_names(light)
    feed = ([item[name] for name in names] for item in items)
    while True:
        pipe = build(light, lambda: next(feed), 1, 1, device_id, prefetch=1)
        try:
            while True:
                pipe.run()
                yield True
        except StopIteration:
            return
        except RuntimeError:  # a pipeline must not be used after an error, so the next item gets a new one
            yield False


def _only_crop(augment: Augment) -> Augment:
    return augment.model_copy(update={"color_jitter": 0.0, "rand_augment": None})


@pipeline_def(enable_conditionals=True)
def _graph(recipe: Recipe, feed: Callable[[], Sequence[Any]], device: str) -> Any:
    inputs = _inputs(recipe, feed)
    encoded = fn.io.file.read(inputs["file"]) if recipe.source == "file" else inputs["bytes"]
    if recipe.augment is None:
        image = center_crop(encoded, recipe.resize, recipe.image_size, device)
    else:
        image = random_crop(encoded, inputs, recipe.augment, recipe.image_size, device)
    if recipe.augment is not None and recipe.augment.color_jitter:
        for i in range(3):
            image = jitter(image, inputs[f"jitter_op{i}"], inputs[f"jitter_factor{i}"])
    if recipe.augment is not None and recipe.augment.rand_augment:
        for i in range(aug.LAYERS):
            image = rand_augment(image, inputs[f"op{i}"], inputs[f"value{i}"], inputs[f"matrix{i}"], recipe.mean)
    if recipe.uint8:
        return fn.transpose(image, perm=[2, 0, 1])
    mirror = 0 if recipe.augment is None else inputs["flip"]
    mean, std = [255 * x for x in recipe.mean], [255 * x for x in recipe.std]
    return fn.crop_mirror_normalize(image, mirror=mirror, mean=mean, std=std, dtype=types.FLOAT, output_layout="CHW")


@do_not_convert
def _inputs(recipe: Recipe, feed: Callable[[], Sequence[Any]]) -> Arrays:
    names = input_names(recipe)
    kinds = [TYPES[name.rstrip("012")] for name in names]
    nodes = fn.external_source(
        source=feed, num_outputs=len(names), batch=True, dtype=[kind for kind, _ in kinds], ndim=[d for _, d in kinds]
    )
    return dict(zip(names, nodes, strict=True))
