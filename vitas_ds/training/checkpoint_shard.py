"""Write the state of one rank in chunks: tensors to a safetensors file, or the content of DeepSpeed's files.

``safetensors.save_file`` copies every tensor while it holds Python's global lock. A save runs during training, so this
writer releases the lock for each chunk, hashes the chunks instead of reading the file again, and reports its progress.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

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
    with _writing(path, progress) as output:
        output.write(_header(tensors))
        for tensor in tensors.values():
            output.write(tensor.detach().reshape(-1).view(torch.uint8).numpy().data)
    return output.size, output.digest.hexdigest()


def write_pickle(path: Path, content: Any, progress: Callable[[], None]) -> tuple[int, str]:
    """Write and flush a file of ``torch.save``, atomically. Returns size and SHA-256 like ``write_shard``."""
    with _writing(path, progress) as output:
        torch.save(content, output)  # type: ignore[arg-type]  # it calls only write and flush
    return output.size, output.digest.hexdigest()


@contextmanager
def _writing(path: Path, progress: Callable[[], None]) -> Iterator[_Output]:
    with replacing(path) as aside, aside.open("wb") as file:
        output = _Output(file, progress)
        yield output
        if output.error is not None:
            raise output.error


class _Output:
    """A file written and hashed in chunks.

    An OSError is kept, and raised at the end: ``torch.save`` writes in C++, and would turn it into a RuntimeError
    without number.
    """

    def __init__(self, file: BinaryIO, progress: Callable[[], None]) -> None:
        self.file, self.progress = file, progress
        self.digest, self.size = hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data)
        for start in range(0, len(view) if self.error is None else 0, CHUNK):
            chunk = view[start : start + CHUNK]
            try:
                self.file.write(chunk)
            except OSError as error:
                self.error = error
                break
            self.digest.update(chunk)
            self.size += len(chunk)
            self.progress()
        return len(view)

    def flush(self) -> None:
        """Do nothing: the file is flushed when it is closed."""


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the length of the header and the header: dtype, shape and place of each tensor."""
    entries, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data is aligned to 8 bytes
    return len(text).to_bytes(8, "little") + text
