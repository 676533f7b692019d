"""Batches of an image set: training from any step, evaluation of each image once, and decoding of a whole set."""
# n images, B batch, H and W height and width in pixels

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vitas_ds.config import Augment, Data
from vitas_ds.data import augment as aug
from vitas_ds.data import sampler
from vitas_ds.data.normalize import normalize_pixels
from vitas_ds.data.processing import BadImages, Recipe
from vitas_ds.data.reader import Batch, Reader, Request, local_ranks
from vitas_ds.data.sources import ImageSet
from vitas_ds.distributed import host, watchdog
from vitas_ds.errors import UserError, printable

if TYPE_CHECKING:
    from vitas_ds.distributed.comm import Ranks

REPLACE = "replace it (vitas_ds scan lists all unreadable files)"  # tools/predict.py cuts the message off here
EXCLUDE = "start a new run with data.exclude, a text file that lists it"


def train_batches(images: ImageSet, data: Data, augment: Augment, image_size: int, batch_size: int, seed: int,
                  start_step: int, ranks: Ranks) -> Iterator[Batch]:  # fmt: skip
    """Yield training batches of this rank without end, starting at global step ``start_step``.

    The stream is a function of (seed, step) and of the global batch size, ``batch_size * world_size``: 2 ranks see the
    same augmented images as 1 rank with twice the batch size, and a resumed run sees the same as an uninterrupted one.

    Raises:
        UserError: There are fewer images than a global batch, or an image cannot be read (see ``data.on_bad_file``).
    """
    schedule = _Schedule(len(images), augment, image_size, batch_size, seed, ranks)
    if sampler.steps_per_epoch(len(images), augment.aug_repeats, schedule.global_batch) == 0:
        raise UserError(
            f"batch_size: {schedule.global_batch} is more than the {len(images)} training images of {images.root}"
        )
    recipe = Recipe(image_size, data.mean, data.std, augment=augment, decoder=data.decoder)
    reader = Reader(images, data, recipe, ranks, f"set data.on_bad_file=skip, {REPLACE}, or {EXCLUDE}")
    return _train_batches(reader, schedule, start_step, skip_bad=data.on_bad_file == "skip")


def _train_batches(reader: Reader, schedule: _Schedule, step: int, skip_bad: bool) -> Iterator[Batch]:
    substitutes: dict[int, int] = {}  # slot of an unreadable image -> image used instead
    reported: set[int] = set()
    while True:
        try:
            for request, pixels in reader.run(schedule.requests(step, substitutes), schedule.batch_size):
                schedule.erase(pixels, request.slots)
                step += 1
                yield reader.batch(request.ids, pixels, sum(slot in substitutes for slot in request.slots))
        except BadImages as error:
            bad = reader.find_bad(error)
            if not skip_bad:
                raise reader.unreadable(bad[0].ids[0]) from None
            substitutes |= {item.slots[0]: reader.substitute(item) for item in bad}
            for index in sorted({int(item.ids[0]) for item in bad} - reported):
                reported.add(index)
                name = printable(reader.images.file(index))
                # print on the rank of the image: warnings.warn is shown on rank 0 only
                print(f"warning: {name}: cannot be read as an image; using another", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class _Schedule:
    """The images and random numbers of each training step of a rank."""

    n: int
    augment: Augment
    image_size: int
    batch_size: int
    seed: int
    ranks: Ranks

    @property
    def global_batch(self) -> int:
        return self.batch_size * self.ranks.world_size

    def requests(self, step: int, substitutes: dict[int, int]) -> Iterator[Request]:
        """Yield the requests of this rank from ``step`` on, with substitutes (slot -> image) for unreadable images."""
        first = self.ranks.rank * self.batch_size
        while True:
            ids = sampler.batch_ids(self.n, self.augment.aug_repeats, self.global_batch, self.seed, step)
            ids = ids[first : first + self.batch_size]
            start = step * self.global_batch + first
            slots = range(start, start + self.batch_size)
            for place, slot in enumerate(slots):
                ids[place] = substitutes.get(slot, ids[place])
            yield Request(ids, slots, aug.draw(self.augment, self.image_size, self.seed, start, self.batch_size))
            step += 1

    def erase(self, pixels: Tensor, slots: range) -> None:
        """Apply RandomErasing in place."""
        probability = self.augment.random_erasing
        if probability:
            boxes = aug.erase_boxes(probability, self.image_size, self.seed, slots[0], self.batch_size)
            aug.erase(pixels, boxes, self.seed, slots)


def eval_batches(images: ImageSet, data: Data, image_size: int, batch_size: int, ranks: Ranks) -> Iterator[Batch]:
    """Yield this rank's images in order; all ranks together yield each image once. The last batch may be smaller.

    Ranks may have different numbers of batches (none if there are fewer images than ranks). Do not communicate within
    the loop: finished ranks would be missing.

    Raises:
        UserError: An image cannot be read.
    """
    own = sampler.rank_slice(len(images), ranks.rank, ranks.world_size)
    reader = Reader(images, data, _eval_recipe(data, image_size), ranks, REPLACE)
    for ids, pixels in reader.run_once(np.arange(own.start, own.stop), batch_size):
        yield reader.batch(ids, pixels)


def _eval_recipe(data: Data, image_size: int, uint8: bool = False) -> Recipe:
    data.check_resize(image_size)
    return Recipe(image_size, data.mean, data.std, resize=data.resize, uint8=uint8, decoder=data.decoder)


def decode_all(
    images: ImageSet, data: Data, image_size: int, ranks: Ranks, out: Tensor | None = None,
    fewer: tuple[str, str] = ("search images", "lower data.search_per_class"),
) -> Tensor:  # fmt: skip
    """Decode, resize and crop all images as in evaluation, without normalization.

    ``normalize`` of the result is bitwise equal to the images of ``eval_batches``.

    Args:
        images: The image set.
        data: Preprocessing, threads and batch size.
        image_size: Side of the result in pixels.
        ranks: Device that decodes, and number of ranks per node.
        out: Tensor for the result, for example memory-mapped and shared by the ranks of a node; allocated by default.
        fewer: Name of the images and how to use fewer of them, for the error message.

    Returns:
        Pixels [n, 3, H, W] uint8 on the CPU.

    Raises:
        UserError: There is not enough memory, or an image cannot be read.
    """
    if out is None:
        _check_memory(len(images) * 3 * image_size**2, local_ranks(ranks), fewer)
        out = torch.empty(len(images), 3, image_size, image_size, dtype=torch.uint8)
    reader = Reader(images, data, _eval_recipe(data, image_size, uint8=True), ranks, f"{REPLACE}, or {EXCLUDE}")
    for ids, pixels in reader.run_once(np.arange(len(images)), data.eval_batch_size):
        out[ids[0] : ids[-1] + 1] = pixels.to(out.device)
        watchdog.at()
    return out


def _check_memory(needed: int, copies: int, fewer: tuple[str, str]) -> None:
    """Check that ``copies`` ranks of this node have ``needed`` bytes of memory each."""
    free = host.free_memory()
    if copies * needed > free:
        (name, fix), each = fewer, f" in each of {copies} ranks" if copies > 1 else ""
        raise UserError(f"{name}: {needed / 2**30:.1f} GiB decoded{each}, {free / 2**30:.1f} GiB of memory free; {fix}")


def normalize(pixels: Tensor, data: Data) -> Tensor:
    """Return ``(x / 255 - mean) / std`` per channel, float32, for uint8 pixels [B, 3, H, W].

    The result is bitwise equal to that of the DALI graph.
    """
    return normalize_pixels(pixels, data.mean, data.std)
