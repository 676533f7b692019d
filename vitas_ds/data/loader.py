"""From an image set to batches: training from any step, evaluation of each image once, and the decoded cache."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vitas_ds.config import Augment, Data
from vitas_ds.data import augment as aug
from vitas_ds.data import dali, sampler
from vitas_ds.data.sources import ImageSet, in_one_line
from vitas_ds.distributed import watchdog
from vitas_ds.errors import UserError

if TYPE_CHECKING:
    from vitas_ds.distributed.comm import Ranks

REPLACE = "replace it by one that can (vitas_ds scan finds all that cannot)"
EXCLUDE = "begin a new run with data.exclude, a file that lists it"


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
    if sampler.steps_per_epoch(len(images), augment.aug_repeats, total) == 0:
        raise UserError(f"batch_size: {total} is more than the {len(images)} training images of {images.root}")
    return _train_batches(images, data, augment, image_size, batch_size, seed, start_step, ranks)


def _train_batches(images: ImageSet, data: Data, augment: Augment, image_size: int, batch_size: int, seed: int,
                   step: int, ranks: Ranks) -> Iterator[Batch]:  # fmt: skip
    recipe = dali.Recipe(image_size, data.mean, data.std, augment=augment)
    remedy = f"set data.on_bad_file=skip, {REPLACE}, or {EXCLUDE}"
    reader = _Reader(images, data, recipe, ranks, remedy)
    stand_ins: dict[int, int] = {}  # slot -> image that is shown in it instead of an unreadable one
    told: set[int] = set()
    while True:
        plan = _plan(len(images), stand_ins, augment, image_size, batch_size, seed, step, ranks)
        try:
            for part, pixels in reader.run(plan, batch_size):
                if augment.random_erasing:
                    first = part.slots[0]
                    boxes = aug.erase_boxes(augment.random_erasing, image_size, seed, first, batch_size)
                    aug.erase(pixels, boxes, seed, part.slots)
                step += 1
                yield reader.batch(part.ids, pixels, sum(slot in stand_ins for slot in part.slots))
        except dali.BadImages as error:
            bad = reader.find_bad(error)
            if data.on_bad_file == "stop":
                raise reader.complaint(bad[0].ids[0]) from None
            stand_ins |= {item.slots[0]: reader.stand_in(item) for item in bad}
            for index in sorted({int(item.ids[0]) for item in bad} - told):
                told.add(index)
                name = in_one_line(images.file(index))  # said by the rank that met it: a warning is rank 0's alone
                print(f"warning: {name}: cannot be read as an image; another is shown", file=sys.stderr, flush=True)


def _plan(n: int, stand_ins: dict[int, int], augment: Augment, image_size: int, batch_size: int, seed: int, step: int,
          ranks: Ranks) -> Iterator[_Part]:  # fmt: skip
    """What this rank loads in each step from ``step`` on, and how."""
    total = batch_size * ranks.world_size
    first = ranks.rank * batch_size
    while True:
        ids = sampler.batch_ids(n, augment.aug_repeats, total, seed, step)[first : first + batch_size]
        slots = range(step * total + first, step * total + first + batch_size)
        for place, slot in enumerate(slots):
            ids[place] = stand_ins.get(slot, ids[place])
        yield _Part(ids, slots, aug.draw(augment, image_size, seed, slots[0], batch_size))
        step += 1


def eval_batches(images: ImageSet, data: Data, image_size: int, batch_size: int, ranks: Ranks) -> Iterator[Batch]:
    """This rank's images, in order, each image once over all ranks; no batch is empty, and the last may be short.

    A rank has none where there are fewer images than ranks, and ranks may differ in batches by one: do not
    communicate within the loop.

    Raises:
        UserError: an unreadable image, named.
    """
    mine = sampler.share(len(images), ranks.rank, ranks.world_size)
    recipe = _eval_recipe(data, image_size)
    reader = _Reader(images, data, recipe, ranks, REPLACE)
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
        _check_memory(len(images) * 3 * image_size**2, _local_ranks(ranks))
        out = torch.empty(len(images), 3, image_size, image_size, dtype=torch.uint8)
    reader = _Reader(images, data, _eval_recipe(data, image_size, uint8=True), ranks, f"{REPLACE}, or {EXCLUDE}")
    for ids, pixels in reader.run_once(np.arange(len(images)), data.eval_batch_size):
        out[ids[0] : ids[-1] + 1] = pixels.to(out.device)
        watchdog.at()
    return out


def _check_memory(needed: int, copies: int) -> None:
    """Raise UserError if ``copies`` ranks of this machine cannot hold ``needed`` bytes each."""
    with open("/proc/meminfo") as lines:
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    if copies * needed > free:
        each = f" in each of {copies} ranks" if copies > 1 else ""
        raise UserError(
            f"search images: {needed / 2**30:.1f} GiB decoded{each}, {free / 2**30:.1f} GiB of memory free; "
            "lower data.search_per_class"
        )


def normalise(pixels: Tensor, data: Data) -> Tensor:
    """uint8 [B, 3, H, W] -> float32, ``(x / 255 - mean) / std`` per channel, bit for bit what the DALI graph gives."""
    mean, std = (torch.tensor([255 * x for x in values], device=pixels.device) for values in (data.mean, data.std))
    return (pixels.float() - mean.view(3, 1, 1)) * (1 / std).view(3, 1, 1)


@dataclass(frozen=True)
class _Part:
    """A rank's part of a batch before it is loaded; ``slots`` and ``draws`` in training only (see augment.py)."""

    ids: np.ndarray
    slots: range = range(0)
    draws: aug.Draws = field(default_factory=dict)

    def items(self) -> list[_Part]:
        """A part for each image."""
        items = range(len(self.ids))
        return [_Part(self.ids[i : i + 1], self.slots[i : i + 1], {k: v[i : i + 1] for k, v in self.draws.items()})
                for i in items]  # fmt: skip


class _Reader:
    """Runs one recipe over images of one set on a rank's device, and finds out which file cannot be read.

    ``remedy`` is what can be done about such a file.
    """

    def __init__(self, images: ImageSet, data: Data, recipe: dali.Recipe, ranks: Ranks, remedy: str):
        self.images, self.recipe, self.remedy = images, recipe, remedy
        self.device = torch.device(ranks.device)
        self.device_id = None if self.device.type == "cpu" else (self.device.index or 0)
        self.threads = data.threads or max(1, len(os.sched_getaffinity(0)) // _local_ranks(ranks))
        self.source = "file" if images.spans is None else "bytes"
        self.pool = ThreadPoolExecutor(self.threads) if images.spans is not None else None

    def batch(self, ids: np.ndarray, pixels: Tensor, replaced: int = 0) -> Batch:
        labels = torch.from_numpy(self.images.labels[ids]).to(self.device, non_blocking=True)
        return Batch(pixels, labels, torch.from_numpy(ids), replaced)

    def run(self, plan: Iterator[_Part], batch_size: int) -> Iterator[tuple[_Part, Tensor]]:
        """Each part and its pixels."""
        inputs = ((part, self._inputs(part)) for part in plan)
        yield from dali.stream(self.recipe, inputs, self.source, batch_size, self.threads, self.device_id)

    def run_once(self, ids: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Images ``ids`` in order, without augmentation."""
        if not len(ids):
            return
        plan = (_Part(ids[i : i + batch_size]) for i in range(0, len(ids), batch_size))
        try:
            for part, pixels in self.run(plan, min(batch_size, len(ids))):
                yield part.ids, pixels
        except dali.BadImages as error:
            raise self.complaint(self.find_bad(error)[0].ids[0]) from None

    def _inputs(self, part: _Part) -> dali.Arrays:
        ids = part.ids.tolist()
        if self.pool is not None:
            return part.draws | {"bytes": list(self.pool.map(self.images.content, ids))}
        return part.draws | {"file": [np.frombuffer(os.fsencode(self.images.file(i)), np.uint8) for i in ids]}

    def find_bad(self, error: dali.BadImages) -> list[_Part]:
        """The images that cannot be read, in the oldest part that has any.

        Raises:
            RuntimeError: DALI failed for another reason, as every image can be read.
        """
        for part in error.pending:
            items = part.items()
            good = dali.readable(self.recipe, map(self._inputs, items), self.source, self.device_id)
            bad = [item for item, is_good in zip(items, good, strict=True) if not is_good]
            if bad:
                return bad
        raise RuntimeError(f"DALI: {error}") from error

    def complaint(self, index: int) -> UserError:
        """The line that says which file is bad, and what to do."""
        return UserError(f"{in_one_line(self.images.file(index))}: cannot be read as an image; {self.remedy}")

    def stand_in(self, item: _Part) -> int:
        """The next image that can be read, likely of the same class: a function of the files, not of history."""
        n = len(self.images)
        others = (replace(item, ids=(item.ids + i) % n) for i in range(1, n))
        good = dali.readable(self.recipe, map(self._inputs, others), self.source, self.device_id)
        for i, is_good in enumerate(good, start=1):
            if is_good:
                return int(item.ids[0] + i) % n
        raise UserError(f"{self.images.root}: no image can be read")


def _local_ranks(ranks: Ranks) -> int:
    """Ranks on this machine, as their launcher says; all of them where it does not."""
    names = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "SLURM_NTASKS_PER_NODE")
    return next((int(os.environ[name]) for name in names if os.environ.get(name)), ranks.world_size)
