"""DALI pipelines and the loop that runs them.

One graph definition serves GPUs (mixed decoding, GPU operators) and CPUs. In training, a CPU only decodes crops in the
graph, and torch and Pillow do the rest (``host_augment.py``); a GPU runs operators of DALI (``dali_augment.py``).
The graph has no random operators: everything that varies between images is an input (``augment.py``), and a pipeline
has no state to save.
"""
# B batch, H and W height and width in pixels

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from nvidia.dali import Pipeline, pipeline_def
from nvidia.dali import fn as dali_fn
from nvidia.dali import types as dali_types
from nvidia.dali.pipeline import do_not_convert
from torch import Tensor

from vitas_ds.config import Augment
from vitas_ds.data import augment as aug
from vitas_ds.data import host_augment, point_ops
from vitas_ds.data.dali_augment import jitter, rand_augment
from vitas_ds.data.dali_crop import center_crop, random_crop, resize
from vitas_ds.data.processing import BadImages, Recipe

fn: Any = dali_fn  # DALI generates the functions of these modules at run time, so mypy does not know them
types: Any = dali_types
Arrays = dict[str, Any]  # name -> array [B, ...] or list of B arrays
PREFETCH = 2  # batches that DALI prepares in advance
# Inputs of the graph: name -> (type, dimensions of a sample)
TYPES: dict[str, tuple[Any, int]] = {
    "file": (types.UINT8, 1),
    "bytes": (types.UINT8, 1),
    "crop": (types.FLOAT64, 2),
    "crop_at": (types.FLOAT64, 1),
    # only in the graph of GPUs
    "flip": (types.INT32, 0),
    "jitter": (types.FLOAT, 2),
    "warp": (types.FLOAT, 2),
    "kernel": (types.FLOAT, 2),
    "first": (types.FLOAT, 2),
    "stretch": (types.BOOL, 0),
    "equalize": (types.BOOL, 0),
    "average": (types.UINT8, 1),
    "second": (types.FLOAT, 2),
    "third": (types.FLOAT, 2),
    "bits": (types.UINT8, 0),
}


def input_names(recipe: Recipe, device: str) -> tuple[str, ...]:
    """Return the names of a graph's inputs; ``device`` is "cpu" or "gpu"."""
    if recipe.augment is None:
        return (recipe.source,)
    names: tuple[str, ...] = (recipe.source, "crop", "crop_at")
    if device == "cpu":
        return names
    names += ("flip",)
    if recipe.augment.color_jitter:
        names += tuple(f"jitter{i}" for i in range(3))
    if recipe.augment.rand_augment:
        names += tuple(f"{name}{layer}" for layer in range(aug.LAYERS) for name in point_ops.LAYER)
    return names


def build(recipe: Recipe, feed: Callable[[], Sequence[Any]], batch_size: int, threads: int, device_id: int | None,
          device: str | None = None, prefetch: int = PREFETCH) -> Pipeline:  # fmt: skip
    """Build a pipeline that returns images [B, 3, image_size, image_size], or crops for training on a CPU.

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


def stream(recipe: Recipe, batches: Iterator[tuple[Any, Arrays]], batch_size: int, threads: int,
           device_id: int | None) -> Iterator[tuple[Any, Tensor]]:  # fmt: skip
    """Run the graph over ``batches`` of (tag, inputs by name); yield (tag, images [B, 3, H, W]) in the same order.

    Raises:
        BadImages: An image cannot be read or decoded. The stream ends.
    """
    device = "cpu" if device_id is None else "gpu"
    on_host = device == "cpu" and recipe.augment is not None
    names = input_names(recipe, device)
    pending: deque[tuple[Any, Arrays]] = deque()

    def feed() -> list[Any]:
        tag, inputs = next(batches)
        pending.append((tag, inputs))
        if device == "gpu":
            inputs = point_ops.graph_inputs(inputs)
        return [inputs[name] for name in names]

    pipe = build(recipe, feed, batch_size, threads, device_id, prefetch=1 if on_host else PREFETCH)

    def run() -> tuple[Any, Tensor]:
        try:
            (images,) = pipe.run(None if device_id is None else torch.cuda.current_stream(device_id))
        except RuntimeError as error:
            raise BadImages([tag for tag, _ in pending], str(error)) from None
        tag, draws = pending.popleft()
        if on_host:
            return tag, host_augment.process(images, draws, recipe, threads)
        # No copy is needed: DALI's default executor does not reuse the memory before the tensor is freed, and on a GPU
        # not before the current stream is done with it. With an older executor the next run would overwrite it.
        return tag, torch.from_dlpack(images.as_tensor())

    yield from _ahead(run) if on_host else _until_stop(run)


def _until_stop(run: Callable[[], tuple[Any, Tensor]]) -> Iterator[tuple[Any, Tensor]]:
    """Yield results until StopIteration."""
    while True:
        try:
            result = run()
        except StopIteration:
            return
        yield result


def _ahead(run: Callable[[], tuple[Any, Tensor]]) -> Iterator[tuple[Any, Tensor]]:
    """Yield results like ``_until_stop``; a thread computes PREFETCH of them in advance."""
    results, ready = _until_stop(run), deque[Future[Any]]()
    with ThreadPoolExecutor(1) as thread:
        ready.extend(thread.submit(next, results, None) for _ in range(PREFETCH))
        try:
            while (result := ready.popleft().result()) is not None:
                ready.append(thread.submit(next, results, None))
                yield result
        finally:
            for job in ready:
                job.cancel()


def readable(recipe: Recipe, items: Iterable[Arrays], device_id: int | None = None) -> Iterator[bool]:
    """Yield for each item (the inputs of one image, by name) whether DALI can read and decode it.

    The crop is applied as in ``recipe``: of a truncated file, the part above the cut can be decoded.
    """
    light = replace(recipe, image_size=8, resize=32, augment=recipe.augment and _only_crop(recipe.augment))
    names = input_names(light, "cpu")  # without operations, both devices have the same inputs
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


def decode(content: np.ndarray) -> np.ndarray | None:
    """Decode one image on the CPU, as training reads it: RGB [H, W, 3] uint8; None if it is not readable."""
    pipe = Pipeline(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipe:
        encoded = fn.external_source([[content]], dtype=types.UINT8, ndim=1)
        pipe.set_outputs(fn.decoders.image(encoded, output_type=types.RGB, adjust_orientation=False))
    try:
        (images,) = pipe.run()
    except RuntimeError:
        return None
    return np.array(images.at(0))


def _only_crop(augment: Augment) -> Augment:
    return augment.model_copy(update={"color_jitter": 0.0, "rand_augment": None})


@pipeline_def(enable_conditionals=True)
def _graph(recipe: Recipe, feed: Callable[[], Sequence[Any]], device: str) -> Any:
    inputs = _inputs(recipe, feed, device)
    encoded = fn.io.file.read(inputs["file"]) if recipe.source == "file" else inputs["bytes"]
    decoder = device if recipe.decoder == "auto" else "cpu"
    if recipe.augment is None:
        image = center_crop(encoded, recipe.resize, recipe.image_size, device, decoder)
    else:
        image = random_crop(encoded, inputs, recipe.augment, device, decoder)
        if device == "cpu":
            return image  # host_augment.py does the rest
        image = _augment_on_gpu(resize(image, recipe.image_size), inputs, recipe)
    if recipe.uint8:
        return fn.transpose(image, perm=[2, 0, 1])
    mirror = 0 if recipe.augment is None else inputs["flip"]
    mean, std = [255 * x for x in recipe.mean], [255 * x for x in recipe.std]
    return fn.crop_mirror_normalize(image, mirror=mirror, mean=mean, std=std, dtype=types.FLOAT, output_layout="CHW")


def _augment_on_gpu(image: Any, inputs: Arrays, recipe: Recipe) -> Any:
    """Apply ColorJitter and RandAugment with operators of DALI."""
    if recipe.augment is not None and recipe.augment.color_jitter:
        for i in range(3):
            image = jitter(image, inputs[f"jitter{i}"])
    if recipe.augment is not None and recipe.augment.rand_augment:
        for i in range(aug.LAYERS):
            layer = {name: inputs[f"{name}{i}"] for name in point_ops.LAYER}
            image = rand_augment(image, layer, recipe.mean, recipe.image_size)
    return image


@do_not_convert
def _inputs(recipe: Recipe, feed: Callable[[], Sequence[Any]], device: str) -> Arrays:
    names = input_names(recipe, device)
    kinds = [TYPES[name.rstrip("012")] for name in names]
    nodes = fn.external_source(
        source=feed, num_outputs=len(names), batch=True, dtype=[kind for kind, _ in kinds], ndim=[d for _, d in kinds]
    )
    return dict(zip(names, nodes, strict=True))
