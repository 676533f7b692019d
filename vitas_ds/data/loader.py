"""From an image set to batches: training from any step, evaluation of each image once, and the decoded cache."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vitas_ds.config import Augment, Data
from vitas_ds.data import augment as aug
from vitas_ds.data import dali, order
from vitas_ds.data.sources import ImageSet
from vitas_ds.errors import UserError

if TYPE_CHECKING:
    from vitas_ds.distributed import Ranks


@dataclass(frozen=True)
class Batch:
    """A rank's share of a batch. ``ids`` index the image set; ``replaced`` of them stand in for unreadable files."""

    images: Tensor  # float32 [B, 3, H, W], normalised, on the rank's device
    labels: Tensor  # int64 [B], there too
    ids: Tensor  # int64 [B], on the CPU
    replaced: int = 0


def train_batches(images: ImageSet, data: Data, augment: Augment, image_size: int, batch_size: int, seed: int,
                  start_step: int, ranks: Ranks) -> Iterator[Batch]:  # fmt: skip
    """Endless training batches of this rank from global step ``start_step`` on.

    The stream is a function of (seed, step) and of the global batch, ``batch_size * world_size``: 2 ranks see the same
    images as 1 rank with twice the batch, augmented alike, and a resumed run those that an unbroken one would.

    Raises:
        UserError: fewer images than a global batch; or an unreadable image, named (see ``data.on_bad_file``).
    """
    total = batch_size * ranks.world_size
    if order.steps_per_epoch(len(images), augment.views, total) == 0:
        raise UserError(f"batch_size: {total} is more than the {len(images)} training images of {images.root}")
    return _train_batches(images, data, augment, image_size, batch_size, seed, start_step, ranks)


def _train_batches(images: ImageSet, data: Data, augment: Augment, image_size: int, batch_size: int, seed: int,
                   start_step: int, ranks: Ranks) -> Iterator[Batch]:  # fmt: skip
    recipe = dali.Recipe(image_size, data.mean, data.std, augment=augment)
    reader = _Reader(images, data, recipe, ranks)
    bad: set[int] = set()
    step = start_step
    while True:
        plan = _plan(images, bad, augment, image_size, batch_size, seed, step, ranks)
        try:
            for (ids, slots, replaced), pixels in reader.run(plan, batch_size):
                if augment.random_erasing:
                    boxes = aug.erase_boxes(augment.random_erasing, image_size, seed, slots[0], batch_size)
                    aug.erase(pixels, boxes, seed, slots)
                step += 1
                yield reader.batch(ids, pixels, replaced)
        except dali.BadImages as error:
            bad |= reader.find_bad([ids for ids, _, _ in error.pending], error, stop=data.on_bad_file == "stop")


def _plan(images: ImageSet, bad: set[int], augment: Augment, image_size: int, batch_size: int, seed: int, step: int,
          ranks: Ranks) -> Iterator[tuple[Any, dali.Arrays]]:  # fmt: skip
    """What to load and how, for each step: ((ids, slots, replaced), draws)."""
    total = batch_size * ranks.world_size
    while True:
        first = ranks.rank * batch_size
        ids = order.batch_ids(len(images), augment.views, total, seed, step)[first : first + batch_size]
        slots = range(step * total + first, step * total + first + batch_size)
        replaced = [_replacement(i, bad, len(images)) for i in ids.tolist()]
        count = sum(new != old for new, old in zip(replaced, ids.tolist(), strict=True))
        draws = aug.draw(augment, image_size, seed, slots[0], batch_size)
        yield (np.array(replaced), slots, count), draws
        step += 1


def _replacement(index: int, bad: set[int], n: int) -> int:
    """The next readable image, most likely of the same class; a function of which files are bad, not of when."""
    if len(bad) == n:
        raise UserError("data.train: no image can be read")
    while index in bad:
        index = (index + 1) % n
    return index


def eval_batches(images: ImageSet, data: Data, image_size: int, batch_size: int, ranks: Ranks) -> Iterator[Batch]:
    """This rank's images, in order, each image once over all ranks; no batch is empty, and the last may be short.

    A rank has none where there are fewer images than ranks, and ranks may differ in batches by one: do not
    communicate within the loop.

    Raises:
        UserError: an unreadable image, named.
    """
    mine = order.share(len(images), ranks.rank, ranks.world_size)
    recipe = _eval_recipe(data, image_size)
    reader = _Reader(images, data, recipe, ranks)
    for ids, pixels in reader.run_once(np.arange(mine.start, mine.stop), batch_size):
        yield reader.batch(ids, pixels)


def _eval_recipe(data: Data, image_size: int, uint8: bool = False) -> dali.Recipe:
    if data.resize < image_size:
        raise UserError(f"data.resize: {data.resize} is below the image size {image_size}; {image_size} or above")
    return dali.Recipe(image_size, data.mean, data.std, resize=data.resize, uint8=uint8)


def decode_all(images: ImageSet, data: Data, image_size: int, ranks: Ranks, out: Tensor | None = None) -> Tensor:
    """All images after evaluation's resize and crop, before normalisation: uint8 [n, 3, H, W] on the CPU.

    With :func:`normalise` they equal those of :func:`eval_batches` bit for bit.

    Args:
        out: where to put them, e.g. a memory-mapped tensor that ranks of a node share; else new memory.

    Raises:
        UserError: the memory does not suffice, or an unreadable image, named.
    """
    if out is None:
        _check_memory(len(images) * 3 * image_size**2)
        out = torch.empty(len(images), 3, image_size, image_size, dtype=torch.uint8)
    reader = _Reader(images, data, _eval_recipe(data, image_size, uint8=True), ranks)
    for ids, pixels in reader.run_once(np.arange(len(images)), data.eval_batch_size):
        out[ids[0] : ids[-1] + 1] = pixels.to(out.device)
    return out


def _check_memory(needed: int) -> None:
    with open("/proc/meminfo") as lines:
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    if needed > free:
        raise UserError(
            f"search images: {needed / 2**30:.1f} GiB decoded, {free / 2**30:.1f} GiB of memory free; "
            "lower data.search_per_class or search.images"
        )


def normalise(pixels: Tensor, data: Data) -> Tensor:
    """uint8 [B, 3, H, W] -> float32, ``(x / 255 - mean) / std`` per channel, bit for bit what the DALI graph gives."""
    mean, std = (torch.tensor([255 * x for x in values], device=pixels.device) for values in (data.mean, data.std))
    return (pixels.float() - mean.view(3, 1, 1)) * (1 / std).view(3, 1, 1)


class _Reader:
    """Runs one recipe over images of one set on a rank's device, and names a file that cannot be read."""

    def __init__(self, images: ImageSet, data: Data, recipe: dali.Recipe, ranks: Ranks):
        self.images, self.recipe = images, recipe
        self.device = torch.device(ranks.device)
        self.device_id = None if self.device.type == "cpu" else (self.device.index or 0)
        self.threads = data.threads or max(1, (os.cpu_count() or 1) // max(1, _local_ranks(ranks)))
        self.source = "file"

    def batch(self, ids: np.ndarray, pixels: Tensor, replaced: int = 0) -> Batch:
        labels = torch.from_numpy(self.images.labels[ids]).to(self.device, non_blocking=True)
        return Batch(pixels, labels, torch.from_numpy(ids), replaced)

    def run(self, plan: Iterator[tuple[Any, dali.Arrays]], batch_size: int) -> Iterator[tuple[Any, Tensor]]:
        """Pixels of each planned batch; the first item of a plan's tag is the ids."""
        inputs = ((tag, draws | {self.source: [self._encoded(i) for i in tag[0].tolist()]}) for tag, draws in plan)
        yield from dali.stream(self.recipe, inputs, self.source, batch_size, self.threads, self.device_id)

    def run_once(self, ids: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, Tensor]]:
        parts: Any = (((ids[i : i + batch_size],), {}) for i in range(0, len(ids), batch_size))
        if not len(ids):
            return
        try:
            for (chosen,), pixels in self.run(parts, min(batch_size, len(ids))):
                yield chosen, pixels
        except dali.BadImages as error:
            self.find_bad([chosen for (chosen,) in error.pending], error, stop=True)

    def _encoded(self, index: int) -> np.ndarray:
        """What the graph reads for an image: its path, or its bytes where it lies in a shard."""
        return np.frombuffer(os.fsencode(self.images.file(index)), np.uint8)

    def find_bad(self, pending: list[np.ndarray], error: Exception, stop: bool) -> set[int]:
        """The unreadable images among the ids of the oldest batch that has any.

        Raises:
            UserError: names the first of them, if ``stop``.
            RuntimeError: DALI failed for another reason, every image can be read.
        """
        for ids in pending:
            bad = {index for index in np.unique(ids).tolist() if not self._readable(index)}
            if bad and stop:
                name = self.images.file(min(bad))
                raise UserError(
                    f"{name}: cannot be read as an image; replace it, or list it in a file named by data.exclude "
                    "(python -m vitas_ds scan finds all), or set data.on_bad_file=skip"
                ) from None
            if bad:
                return bad
        raise RuntimeError(f"DALI: {error}") from error

    def _readable(self, index: int) -> bool:
        recipe = dali.Recipe(8, self.recipe.mean, self.recipe.std, resize=8)
        once = iter([(None, {self.source: [self._encoded(index)]})])
        try:
            return len(list(dali.stream(recipe, once, self.source, 1, 1, self.device_id))) == 1
        except dali.BadImages:
            return False


def _local_ranks(ranks: Ranks) -> int:
    """Ranks of this machine, as far as the launchers tell."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or ranks.world_size)
