"""Search images, decoded once: uint8 in each rank's memory, on its device, or in one file that ranks map."""
# n images

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor

from vitas_ds.config import Data
from vitas_ds.data.loader import decode_all
from vitas_ds.data.sources import ImageSet, fingerprint
from vitas_ds.distributed import comm
from vitas_ds.distributed.comm import Ranks
from vitas_ds.errors import UserError


def decoded(images: ImageSet, data: Data, image_size: int, ranks: Ranks, folder: Path) -> Tensor:
    """All images as ``decode_all`` gives them, uint8 [n, 3, H, W], where ``data.cache`` says. All ranks call it.

    ``file`` keeps them in ``folder``, which all ranks see: rank 0 decodes, the others map the same pages. A later
    search of the same images finds the file.

    Raises:
        UserError: the memory, the device's or the disk does not suffice, or an unreadable image, named.
    """
    shape = (len(images), 3, image_size, image_size)
    if data.cache == "device" and ranks.device.type == "cuda":
        _check_room(shape, torch.cuda.mem_get_info(ranks.device)[0], f"data.cache=device: {ranks.device}")
    if data.cache != "file":
        pixels = decode_all(images, data, image_size, ranks)
        return pixels.to(ranks.device) if data.cache == "device" else pixels
    path = folder / f"images-{fingerprint(images)[:16]}-{data.resize}-{image_size}.u8"
    comm.from_main(lambda: _write(path, shape, images, data, ranks))
    return _map(path, shape)


def _check_room(shape: tuple[int, ...], free: int, where: str) -> None:
    needed = torch.Size(shape).numel()
    if needed > free:
        raise UserError(f"{where} has {free / 2**30:.1f} GiB free, the decoded search images take "
                        f"{needed / 2**30:.1f} GiB; lower data.search_per_class, or another data.cache")  # fmt: skip


def _map(path: Path, shape: tuple[int, ...]) -> Tensor:
    count = torch.Size(shape).numel()
    return torch.from_file(str(path), shared=True, size=count, dtype=torch.uint8).view(shape)


def _write(path: Path, shape: tuple[int, ...], images: ImageSet, data: Data, ranks: Ranks) -> None:
    """Whole or absent: aside, then renamed."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # a page for which the disk has no room ends the process when it is written
    _check_room(shape, shutil.disk_usage(path.parent).free, f"data.cache=file: the disk of {path.parent}")
    aside = path.with_name(f".{path.name}.tmp")
    decode_all(images, data, shape[-1], ranks, out=_map(aside, shape))
    aside.replace(path)
