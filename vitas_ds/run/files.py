"""Read and write the files of a run. Importing this module does not import torch.

A file is written aside, flushed to disk and renamed: a reader sees the old file or the new one, never a part of it,
even if the writer is killed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from vitas_ds.errors import UserError, reading
from vitas_ds.errors.exits import naming
from vitas_ds.run import lock

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER = 100_000_000  # bytes of the header of a safetensors file, as in safetensors


def read_json(path: Path, missing: Any) -> Any:
    """Return the contents of a JSON file, or ``missing`` if the file does not exist.

    Raises:
        UserError: The file is not JSON, or ``missing`` is a dict and the file does not contain an object.
    """
    try:
        data = reading.read_json(path)
    except FileNotFoundError:
        return missing
    if isinstance(missing, dict) and not isinstance(data, dict):
        raise UserError(f"{path}: not a JSON object; move it away, it will be written again")
    return data


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON (see ``to_json``), atomically."""
    write_text(path, to_json(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically. Its folder is created if needed."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically, with default permissions (umask). Its folder is created if needed.

    Args:
        path: The file to write.
        tensors: Contiguous tensors by name.
        metadata: The ``__metadata__`` entry of the file's header.

    Raises:
        OSError, SafetensorError: The file could not be written; an existing file is unchanged.
    """
    from safetensors.torch import save_file  # imports torch

    with replacing(path) as aside:
        aside.touch()
        mode = aside.stat().st_mode
        save_file(tensors, aside, metadata)
        aside.chmod(mode)  # save_file makes the file readable by its owner only


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; flush it and rename it to ``path`` at the end of the block.

    Raises:
        UserError: The file belongs to a run that another job has taken over.
    """
    lock.check(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    start = os.fsdecode(os.fsencode(path.name)[:200])  # a name has at most 255 bytes
    aside = path.with_name(f".{start}.{os.getpid()}.tmp")
    try:
        with naming(path):
            aside.unlink(missing_ok=True)  # a link would lead to another file
            yield aside
            sync_file(aside)
            lock.check(path)
            os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def append_line(path: Path, text: str) -> None:
    """Append one line and flush it to disk. The file and its folder are created if needed.

    If the last line has no newline (its writer was killed), the new line starts with one.

    Raises:
        UserError: See ``open_to_append``; or the file belongs to a run that another job has taken over.
    """
    lock.check(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), open_to_append(path) as file:
        torn = False
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        file.write((b"\n" if torn else b"") + text.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def open_to_append(path: Path) -> BinaryIO:
    """Open a file that grows by lines. It is created if needed; its content can be read as well.

    Raises:
        UserError: It is a symbolic link, which may lead out of the run.
    """
    try:
        return open(path, "ab+", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666))
    except OSError:
        if not path.is_symlink():
            raise
        raise UserError(f"{path}: a symbolic link; put the file itself in its place") from None


def sync_file(path: Path) -> None:
    """Flush a file to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Flush a folder to disk. Without this, a crash can undo the creation or renaming of a file in it."""
    sync_file(path)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with reading.open_binary(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_header(path: Path) -> bytes:
    """Return the header of a safetensors file, which is JSON; empty if it is too large to be one."""
    with reading.open_binary(path) as file:
        size = int.from_bytes(file.read(8), "little")
        return file.read(size) if size <= MAX_HEADER else b""


def to_json(value: Any, indent: int | None = None) -> str:
    """Return strict JSON: arrays and tensors become lists, paths strings, nan and infinity null."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy, torch
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
