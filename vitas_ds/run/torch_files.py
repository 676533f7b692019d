"""Check files of ``torch.save`` from other people: they must not need more memory than the file has bytes."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitas_ds.errors import UserError


def check_zip(file: Path, checksums: bool = False) -> None:
    """Check the archive in a file of ``torch.save`` before torch allocates memory for it.

    ``torch.save`` does not compress, so a compressed entry is from another program, and may expand to any size. A file
    of torch before 1.6 is not an archive, and is not checked: torch reads at most the bytes in it.

    Args:
        file: The file.
        checksums: Also read the whole file, and compare its entries with their checksums.

    Raises:
        UserError: The archive is damaged or compressed, or its entries are larger than the file.
    """
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            entries, size = archive.infolist(), file.stat().st_size
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise UserError(f"{file}: not a file of torch.save, its content is compressed")
            total = sum(entry.file_size for entry in entries)
            if total > size:
                raise UserError(f"{file}: not a file of torch.save, it has {size} bytes, and entries of {total} bytes")
            damaged = archive.testzip() if checksums else None
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise UserError(f"{file}: damaged ({str(error)[:100] or type(error).__name__})") from None
    if damaged:
        raise UserError(f"{file}: damaged, the checksum of {damaged[:100]} does not match")


def check_sizes(file: Path, content: Any) -> None:
    """Check that the file has the elements of every tensor in it: a stride of 0 repeats elements any number of times.

    Raises:
        UserError: A tensor is larger than its data, or not dense.
    """
    for tensor in _tensors(content):
        if tensor.device.type == "meta":
            continue
        shape = "x".join(map(str, tensor.shape))
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise UserError(f"{file}: a tensor of shape {shape[:100]} is sparse or quantized; dense ones are supported")
        data = tensor.untyped_storage().nbytes()
        if math.prod(tensor.shape) * tensor.element_size() > data:
            raise UserError(f"{file}: a tensor of shape {shape[:100]} has {data} bytes of data")


def _tensors(content: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested containers."""
    stack, seen = [content], set()
    while stack:
        value = stack.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            stack += value.values() if isinstance(value, dict) else value
