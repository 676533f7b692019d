"""Cache of decoded search images: uint8 on each rank's device, in its memory, or in a file mapped by the ranks."""
# n images, H and W height and width in pixels

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import torch
from torch import Tensor

from vitas_ds.config import Data
from vitas_ds.data import contents
from vitas_ds.data.loader import decode_all
from vitas_ds.data.sources import ImageSet
from vitas_ds.distributed import comm
from vitas_ds.distributed.comm import Ranks
from vitas_ds.errors import UserError

DEVICE_SHARE = 0.5  # most of a GPU's free memory that data.cache=auto takes: scoring needs the rest


def decode_cached(images: ImageSet, data: Data, image_size: int, ranks: Ranks, folder: Path) -> Tensor:
    """Decode all images and keep them according to ``data.cache``. All ranks must call this function.

    ``auto`` keeps them on a GPU if they take at most half of its free memory, else in host memory.
    With ``data.cache=file``, rank 0 decodes into a file in ``folder``, which all ranks can read, and the ranks map the
    same pages. A later search of the same images reuses the file.

    Returns:
        Pixels [n, 3, H, W] uint8, as from ``decode_all``.

    Raises:
        UserError: There is not enough memory, device memory or disk space, or an image cannot be read.
    """
    shape = (len(images), 3, image_size, image_size)
    free = torch.cuda.mem_get_info(ranks.device)[0] if ranks.device.type == "cuda" else 0
    if data.cache == "device" and ranks.device.type == "cuda":
        _check_room(shape, free, f"data.cache=device: {ranks.device}")
    if data.cache != "file":
        pixels = decode_all(images, data, image_size, ranks)
        fits = pixels.numel() <= free * DEVICE_SHARE
        return pixels.to(ranks.device) if data.cache == "device" or (data.cache == "auto" and fits) else pixels
    digest = comm.from_main(lambda: contents.digest(images))
    path = folder / f"images-{digest[:16]}-{data.resize}-{image_size}.u8"
    comm.from_main(lambda: _write(path, shape, images, data, ranks))
    return _map(path, shape)


def _check_room(shape: tuple[int, ...], free: int, where: str) -> None:
    needed = torch.Size(shape).numel()
    if needed > free:
        raise UserError(f"{where} has {free / 2**30:.1f} GiB free, but the decoded search images need "
                        f"{needed / 2**30:.1f} GiB; lower data.search_per_class or change data.cache")  # fmt: skip


def _map(path: Path, shape: tuple[int, ...]) -> Tensor:
    size = torch.Size(shape).numel()
    return torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8).view(shape)


def _write(path: Path, shape: tuple[int, ...], images: ImageSet, data: Data, ranks: Ranks) -> None:
    """Write the file and its digest atomically, unless it is complete: decode into a temporary file, then rename it."""
    digest = path.with_suffix(".sha256")
    if path.is_file() and digest.is_file() and digest.read_bytes() == _sha256(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # check the disk first: a write to a mapped page kills the process (SIGBUS) if the disk is full
    _check_room(shape, shutil.disk_usage(path.parent).free, f"data.cache=file: the disk of {path.parent}")
    temporary = path.with_name(f".{path.name}.tmp")
    for file in (temporary, digest):
        file.unlink(missing_ok=True)  # a link would lead to another file
    decode_all(images, data, shape[-1], ranks, out=_map(temporary, shape))
    digest.write_bytes(_sha256(temporary))
    temporary.replace(path)


def _sha256(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().encode()
