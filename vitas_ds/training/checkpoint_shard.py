"""Write the tensors of one rank to a safetensors file, in chunks.

``safetensors.save_file`` copies every tensor while it holds Python's global lock. A save runs beside the training loop,
so this writer releases the lock for each chunk, hashes what it writes instead of reading it again, and reports its
progress.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from vitas_ds.run.files import replacing

CHUNK = 1 << 22  # bytes
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def write_shard(path: Path, tensors: Mapping[str, Tensor], progress: Callable[[], None]) -> tuple[int, str]:
    """Write and flush a safetensors file, atomically.

    Args:
        path: The file to write.
        tensors: Contiguous tensors on the CPU, by name.
        progress: Called after each chunk.

    Returns:
        Size and SHA-256 of the file.
    """
    digest, size = hashlib.sha256(), 0
    with replacing(path) as aside, aside.open("wb") as file:
        for chunk in _chunks(tensors):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            progress()
    return size, digest.hexdigest()


def _chunks(tensors: Mapping[str, Tensor]) -> Iterator[memoryview | bytes]:
    yield _header(tensors)
    for tensor in tensors.values():
        data = tensor.detach().reshape(-1).view(torch.uint8).numpy().data
        for start in range(0, len(data), CHUNK):
            yield data[start : start + CHUNK]


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the length of the header and the header: dtype, shape and place of each tensor."""
    entries, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data is aligned to 8 bytes
    return len(text).to_bytes(8, "little") + text
