"""Load images of a set with DALI, and find the files that cannot be read."""
# B batch, H and W height and width in pixels

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vitas_ds.config import Data
from vitas_ds.data import augment as aug
from vitas_ds.data import synthetic
from vitas_ds.data.lazy import load_dali
from vitas_ds.data.processing import BadImages, Recipe
from vitas_ds.data.scan import ImageFile, check_file
from vitas_ds.data.sources import ImageSet
from vitas_ds.distributed import host, launcher
from vitas_ds.errors import UserError, printable

if TYPE_CHECKING:
    from vitas_ds.distributed.comm import Ranks


@dataclass(frozen=True)
class Batch:
    """A rank's part of a batch. ``ids`` index the image set; ``replaced`` of them substitute unreadable files."""

    images: Tensor  # float32 [B, 3, H, W], normalized, on the rank's device
    labels: Tensor  # int64 [B], on the rank's device
    ids: Tensor  # int64 [B], on the CPU
    replaced: int = 0


@dataclass(frozen=True)
class Request:
    """Images of one rank for one batch; ``slots`` and ``draws`` are used in training only (see augment.py)."""

    ids: np.ndarray
    slots: range = range(0)
    draws: aug.Draws = field(default_factory=dict)

    def split(self) -> list[Request]:
        """Return one request per image."""
        parts = [slice(i, i + 1) for i in range(len(self.ids))]
        return [
            Request(self.ids[part], self.slots[part], {name: rows[part] for name, rows in self.draws.items()})
            for part in parts
        ]


class Reader:
    """Run a recipe over images of a set on a rank's device.

    Args:
        images: The image set.
        data: Source of the number of threads.
        recipe: The image processing.
        ranks: Device and number of ranks.
        fix: How to fix an unreadable file, for the error message.
    """

    def __init__(self, images: ImageSet, data: Data, recipe: Recipe, ranks: Ranks, fix: str):
        self.images, self.fix = images, fix
        if images.seed is None:
            load_dali()  # before the first batch: a missing library should stop the stage at its start
        self.recipe = replace(recipe, source="file" if images.spans is None else "bytes")
        self.device = torch.device(ranks.device)
        self.device_id = None if self.device.type == "cpu" else (self.device.index or 0)
        self.threads = data.threads or host.share(local_ranks(ranks))
        self.pool = ThreadPoolExecutor(self.threads) if images.spans is not None else None

    def run(self, requests: Iterator[Request], batch_size: int) -> Iterator[tuple[Request, Tensor]]:
        """Yield each request with its pixels.

        Raises:
            BadImages: An image cannot be read; its ``pending`` are requests.
        """
        if self.images.seed is not None:
            for request in requests:
                yield request, synthetic.pixels(self.images, request.ids, self.recipe, self.device)
            return
        inputs = ((request, self._inputs(request)) for request in requests)
        yield from load_dali().stream(self.recipe, inputs, batch_size, self.threads, self.device_id)

    def run_once(self, ids: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield the images ``ids`` in order, without augmentation.

        Raises:
            UserError: An image cannot be read.
        """
        if not len(ids):
            return
        requests = (Request(ids[i : i + batch_size]) for i in range(0, len(ids), batch_size))
        try:
            for request, pixels in self.run(requests, min(batch_size, len(ids))):
                yield request.ids, pixels
        except BadImages as error:
            raise self.unreadable(self.find_bad(error)[0].ids[0]) from None

    def batch(self, ids: np.ndarray, pixels: Tensor, replaced: int = 0) -> Batch:
        """Return a batch with the labels of the images ``ids``."""
        labels = torch.from_numpy(self.images.labels[ids])
        if self.device.type == "cuda":
            labels = labels.pin_memory()  # without this, the copy can wait for the device
        return Batch(pixels, labels.to(self.device, non_blocking=True), torch.from_numpy(ids), replaced)

    def find_bad(self, error: BadImages) -> list[Request]:
        """Return one request per unreadable image of the oldest request that contains any.

        Raises:
            RuntimeError: All images can be read, so DALI failed for another reason.
        """
        for request in error.pending:
            items = request.split()
            bad = [item for item, good in zip(items, self._readable(items), strict=True) if not good]
            if bad:
                return bad
        raise RuntimeError(f"DALI: {error}") from error

    def unreadable(self, index: int) -> UserError:
        """Return the error for image ``index``."""
        name = self.images.file(index)
        reason = check_file(ImageFile(name)) if self.images.spans is None else None
        problem = reason if reason and "pixels" in reason else "cannot be read as an image"
        return UserError(f"{printable(name)}: {problem}; {self.fix}")

    def substitute(self, item: Request) -> int:
        """Return the next readable image, usually of the same class. It depends on the files, not on earlier errors.

        Raises:
            UserError: No image can be read.
        """
        n = len(self.images)
        others = (replace(item, ids=(item.ids + i) % n) for i in range(1, n))
        for i, good in enumerate(self._readable(others), start=1):
            if good:
                return int(item.ids[0] + i) % n
        raise UserError(f"{self.images.root}: no image can be read")

    def _readable(self, items: Iterable[Request]) -> Iterator[bool]:
        return load_dali().readable(self.recipe, map(self._inputs, items), self.device_id)

    def _inputs(self, request: Request) -> dict[str, Any]:
        ids = request.ids.tolist()
        if self.pool is not None:
            return request.draws | {"bytes": list(self.pool.map(self.images.content, ids))}
        return request.draws | {"file": [np.frombuffer(os.fsencode(self.images.file(i)), np.uint8) for i in ids]}


def local_ranks(ranks: Ranks) -> int:
    """Return the number of ranks on this node according to the launcher, or else the number of all ranks."""
    return launcher.read().local_world_size or ranks.world_size
