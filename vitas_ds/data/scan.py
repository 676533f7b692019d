"""Find unreadable images before training.

The fast check reads the bytes of a file and walks the structure of its format, at more than 10,000 files per second
and core. It finds files that are empty, truncated, not images, or damaged in their structure. Suspicious files are
decoded. Damage that keeps the structure intact, such as a few changed bytes, is only found with ``decode=True``, which
decodes every file, at some hundred files per second and core. It cannot find damage the decoder does not report.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from PIL import Image

from vitas_ds.data.lazy import load_dali
from vitas_ds.data.processing import Recipe, size_problem
from vitas_ds.data.shards import read_shard
from vitas_ds.data.walk import SUFFIXES, list_folder, shards_of, walk, warn_hidden
from vitas_ds.distributed import host, workers
from vitas_ds.errors import UserError

CHUNK = 500  # files per task of a worker
SUSPICIOUS = "suspicious"  # result of the fast check: decode the file to find out
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")  # in coded data 0xFF00 is the byte 0xFF, and D0 ... D7 are restarts
SEGMENTS = {0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}  # allowed between the scans of a JPEG
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
TRIED = ("Unsupported", "Couldn't read TIFF")  # of DALI's first TIFF decoder; a second one has decoded the image
BYTES = np.uint64(0x0101010101010101)  # times b: a word with 8 bytes b


class ImageFile(NamedTuple):
    """An image to check: a file, or a member of a shard."""

    path: str  # of a member: shard.tar/member.jpg
    shard: str = ""  # path of the shard; empty for a file
    offset: int = 0
    size: int = 0


def scan(root: str | os.PathLike[str], threads: int = 0, decode: bool = False,
         progress: Callable[[int, int], None] | None = None) -> list[tuple[str, str]]:  # fmt: skip
    """Check all images below ``root``.

    Args:
        root: Folder of images or of tar shards.
        threads: Number of worker processes; 0: one per core.
        decode: Decode every file. This is slower and finds more damage.
        progress: Called with the number of checked files and the number of all files.

    Returns:
        Absolute path and reason for each unreadable image. An image of a tar shard is named ``shard.tar/member.jpg``.
        A shard is listed itself if it is not a complete tar file or contains invalid samples.

    Raises:
        UserError: The folder does not exist or contains no images.
    """
    files, bad = _list_files(os.path.abspath(root))
    if not files and not bad:
        raise UserError(f"{os.fspath(root)}: no file in {' '.join(SUFFIXES)}")
    chunks = [files[i : i + CHUNK] for i in range(0, len(files), CHUNK)]
    done = 0
    with workers.pool(min(threads or host.workers(), len(chunks) or 1)) as pool:
        for chunk, found in zip(chunks, pool.map(_check_files, chunks, [decode] * len(chunks)), strict=True):
            bad += found
            done += len(chunk)
            if progress:
                progress(done, len(files))
    return bad


def _list_files(root: str) -> tuple[list[ImageFile], list[tuple[str, str]]]:
    """List the images below ``root``, and the unreadable shards with the reason.

    As in training, tar shards are read if ``root`` contains no folders.
    """
    found, hidden = [], []
    if not list_folder(root).folders and shards_of(root):
        return _list_shards(root)
    for folder in walk(root):
        found += [ImageFile(os.path.join(folder.path, name)) for name in folder.images]
        hidden += [os.path.relpath(os.path.join(folder.path, name), root) for name in folder.hidden]
    warn_hidden(root, hidden)
    return sorted(found), []


def _list_shards(root: str) -> tuple[list[ImageFile], list[tuple[str, str]]]:
    found: list[ImageFile] = []
    bad = []
    for shard in shards_of(root):
        path = os.path.join(root, shard)
        try:
            images = list(read_shard(root, shard))
        except UserError as error:
            bad.append((path, str(error).removeprefix(f"{path}: ")))
            continue
        found += [ImageFile(os.path.join(root, name), path, *span) for name, _, span in images]
    return sorted(found), bad


def _read(file: ImageFile) -> bytes:
    if not stat.S_ISREG(os.stat(file.shard or file.path).st_mode):
        raise OSError(errno.EINVAL, "not a file")  # to open a pipe would wait for its writer
    with open(file.shard or file.path, "rb") as stream:
        stream.seek(file.offset)
        return stream.read(file.size) if file.shard else stream.read()


def _check_files(files: list[ImageFile], decode: bool) -> list[tuple[str, str]]:
    reasons = [check_file(file) for file in files]
    to_decode = [i for i, reason in enumerate(reasons) if reason == SUSPICIOUS or (decode and reason is None)]
    for i, reason in zip(to_decode, decode_errors(files[i] for i in to_decode), strict=True):
        reasons[i] = reason
    return [(file.path, reason) for file, reason in zip(files, reasons, strict=True) if reason]


def check_file(file: ImageFile) -> str | None:
    """Return the result of ``check`` for a file, or the reason why it cannot be opened."""
    try:
        return check(_read(file))
    except OSError as error:
        return error.strerror or str(error)


def check(content: bytes) -> str | None:
    """Check the structure of an encoded image; return the problem, None, or SUSPICIOUS if it has to be decoded."""
    if not content:
        return "empty"
    if content.startswith(b"\xff\xd8"):
        return _check_jpeg(content)
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return _check_png(content)
    try:
        Image.MAX_IMAGE_PIXELS = None  # size_problem is the limit
        with Image.open(io.BytesIO(content)) as image:
            return size_problem(*image.size) or SUSPICIOUS
    except Exception:  # Pillow raises many types; the decoder of the training decides
        return SUSPICIOUS


def _check_jpeg(content: bytes) -> str | None:
    at, frame, end = 2, False, len(content)
    while True:  # the header: segments of a marker and a length
        if at + 4 > end:
            return "truncated in the header"
        marker = content[at + 1]
        if content[at] != 0xFF or marker < 0xC0:
            return "damaged header"
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in FRAMES:
            frame = True
            sides = [int.from_bytes(content[at + i : at + i + 2], "big") for i in (7, 5)]
            if sides[1] and (problem := size_problem(*sides)):  # a height of 0 follows in a later segment
                return problem
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == 0xDA:
            break
    if at > end:
        return "truncated in the header"
    return _check_coded_data(content, at) if frame else "damaged header: no frame"


def _check_coded_data(content: bytes, at: int) -> str | None:
    """Check the coded data of a JPEG from byte ``at`` to the end marker."""
    suspicious = _has_constant_word(content, at)
    while found := MARKER.search(content, at):
        at, marker = found.end(), content[found.end() - 1]
        if marker == 0xD9:
            return SUSPICIOUS if suspicious or at < len(content) else None
        if marker == 0xFF:  # fill bytes are allowed before a marker; in the data they are damage
            at, suspicious = at - 1, True
        elif marker in SEGMENTS:
            at += int.from_bytes(content[at : at + 2], "big")
        else:
            return f"damaged: stray marker 0x{marker:02X} at byte {at - 2}"
    return "truncated: no end marker"


def _has_constant_word(content: bytes, at: int) -> bool:
    """Whether 8 aligned bytes are equal, as in a lost disk block. This is rare in coded images of several colors."""
    words = np.frombuffer(content, np.uint64, (len(content) - at) // 8, at)
    return bool((words == (words & np.uint64(0xFF)) * BYTES).any())


def _check_png(content: bytes) -> str | None:
    at = 8
    sides = [int.from_bytes(content[i : i + 4], "big") for i in (16, 20)]
    if len(content) >= 24 and content[12:16] == b"IHDR" and (problem := size_problem(*sides)):
        return problem
    while at + 12 <= len(content):
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        stop = at + 8 + length
        if stop + 4 > len(content):
            break
        if zlib.crc32(memoryview(content)[at + 4 : stop]) != int.from_bytes(content[stop : stop + 4], "big"):
            return f"damaged: wrong checksum of the chunk at byte {at}"
        if kind == b"IEND":
            return None
        at = stop + 4
    return "truncated: no end chunk"


def decode_errors(files: Iterable[ImageFile]) -> list[str | None]:
    """Decode each image and return the decoder's first error or warning, or None."""
    files = list(files)
    if not files:
        return []
    dali = load_dali()  # most workers do not need DALI and start faster without it
    reasons: list[str | None] = []
    with _captured_stderr() as read_new:
        inputs = ({"bytes": [np.frombuffer(_read(file), np.uint8)]} for file in files)
        for readable in dali.readable(Recipe(8, (0, 0, 0), (1, 1, 1), source="bytes"), inputs):
            message = read_new()
            if readable and message.startswith(TRIED):
                message = ""
            reasons.append(None if readable and not message else f"not decodable: {message or 'unknown format'}")
    return reasons


@contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """Capture the stderr of this process, including that of C libraries.

    Yields:
        A function that returns the first line written since its last call, without prefixes.
    """
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)

        def read_new() -> str:
            text = os.pread(file.fileno(), 4096, 0).decode(errors="replace")
            os.ftruncate(file.fileno(), 0)
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            first = re.sub(r"\x1b\[[0-9;]*m", "", text).strip().split("\n")[0]
            return re.sub(r"^(\[[^]]*\]\s*|global \S+ )*", "", first)[:100]

        try:
            yield read_new
        finally:
            os.dup2(before, 2)
            os.close(before)
