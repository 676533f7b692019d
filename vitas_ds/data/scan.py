"""Finding images that cannot be read, before a training meets them.

The first look reads a file's bytes and walks the structure of the format, at more than 10,000 files a second and core.
It sees what is empty, cut off, not an image, or damaged so that the structure breaks. What looks odd is decoded.
Damage that leaves the structure whole, such as some changed bytes, is seen by ``decode=True`` alone, which decodes
everything, at some hundred files a second and core; what the decoder itself does not notice, nobody does.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import numpy as np

from vitas_ds.data.shards import read_shard, shards_of
from vitas_ds.data.sources import SUFFIXES
from vitas_ds.errors import UserError

Item = tuple[str, str, int, int]  # path, and for an image in a shard the shard, offset and size
CHUNK = 500  # files that a worker takes at once
LOOK_CLOSER = "look closer"
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")  # in coded data; 0xFF00 is a byte 0xFF, D0 ... D7 are restarts
SEGMENTS = {0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}  # may stand between the scans of a JPEG
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
BYTES = np.uint64(0x0101010101010101)  # times b: a word of 8 bytes b


def scan(root: str | os.PathLike[str], threads: int = 0, decode: bool = False,
         progress: Callable[[int, int], None] | None = None) -> list[tuple[str, str]]:  # fmt: skip
    """Absolute path and what is wrong with it, for each image below ``root`` that cannot be read.

    An image in a tar shard is called ``shard.tar/member.jpg``; a shard that is no whole tar file, or has samples that a
    training could not use, is named itself.

    Args:
        threads: worker processes; 0: one a core.
        decode: decode every file: slower, and finds more damage.
        progress: called with the files done and the files in all.

    Raises:
        UserError: no such folder, or no image in it.
    """
    files, bad = _files(os.path.abspath(root))
    if not files and not bad:
        missing = not os.path.isdir(root)
        raise UserError(f"{os.fspath(root)}: " + ("no such folder" if missing else f"no file in {' '.join(SUFFIXES)}"))
    chunks = [files[i : i + CHUNK] for i in range(0, len(files), CHUNK)]
    workers = min(threads or len(os.sched_getaffinity(0)), len(chunks) or 1)
    done = 0
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for chunk, found in zip(chunks, pool.map(_check_items, chunks, [decode] * len(chunks)), strict=True):
            bad += found
            done += len(chunk)
            if progress:
                progress(done, len(files))
    return bad


def _files(root: str) -> tuple[list[Item], list[tuple[str, str]]]:
    """All images below ``root``, or of the tar shards in it, which a training reads where there are no folders.

    And the shards that cannot be read, with the reason.
    """
    found = []
    if os.path.isdir(root) and shards_of(root) and not any(entry.is_dir() for entry in os.scandir(root)):
        return _in_shards(root)
    for folder, _, names in os.walk(root, followlinks=True):
        found += [(os.path.join(folder, name), "", 0, 0) for name in names if name.lower().endswith(SUFFIXES)]
    return sorted(found), []


def _in_shards(root: str) -> tuple[list[Item], list[tuple[str, str]]]:
    found: list[Item] = []
    bad = []
    for shard in shards_of(root):
        path = os.path.join(root, shard)
        try:
            images = list(read_shard(root, shard))
        except UserError as error:
            bad.append((path, str(error).removeprefix(f"{path}: ")))
            continue
        found += [(os.path.join(root, name), path, *span) for name, _, span in images]
    return sorted(found), bad


def _read(item: Item) -> bytes:
    path, shard, offset, size = item
    with open(shard or path, "rb") as file:
        file.seek(offset)
        return file.read(size) if shard else file.read()


def _check_items(items: list[Item], decode: bool) -> list[tuple[str, str]]:
    reasons = [check_file(item) for item in items]
    closer = [i for i, why in enumerate(reasons) if why == LOOK_CLOSER or (decode and why is None)]
    for i, reason in zip(closer, decode_each(items[i] for i in closer), strict=True):
        reasons[i] = reason
    return [(item[0], reason) for item, reason in zip(items, reasons, strict=True) if reason]


def check_file(item: Item) -> str | None:
    """:func:`check` of an image's bytes, or why they cannot be read."""
    try:
        return check(_read(item))
    except OSError as error:
        return error.strerror or str(error)


def check(content: bytes) -> str | None:
    """What is wrong with an encoded image by its structure; None: nothing; LOOK_CLOSER: only decoding can tell."""
    if not content:
        return "empty"
    if content.startswith(b"\xff\xd8"):
        return _check_jpeg(content)
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return _check_png(content)
    return LOOK_CLOSER


def _check_jpeg(content: bytes) -> str | None:
    at, frame, end = 2, False, len(content)
    while True:  # the header: segments of a marker and a length
        if at + 4 > end:
            return "cut off in the header"
        marker = content[at + 1]
        if content[at] != 0xFF or marker < 0xC0:
            return "damaged header"
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in FRAMES:
            frame = True
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == 0xDA:
            break
    return _check_coded(content, at) if frame else "damaged header: no frame"


def _check_coded(content: bytes, at: int) -> str | None:
    """The coded data of a JPEG from ``at`` on, to the end marker."""
    odd = _has_run(content, at)
    while found := MARKER.search(content, at):
        at, marker = found.end(), content[found.end() - 1]
        if marker == 0xD9:
            return LOOK_CLOSER if odd or at < len(content) else None
        if marker == 0xFF:  # fill bytes may stand before a marker; in data they are damage
            at, odd = at - 1, True
        elif marker in SEGMENTS:
            at += int.from_bytes(content[at : at + 2], "big")
        else:
            return f"damaged: stray marker 0x{marker:02X} at byte {at - 2}"
    return "cut off: no end marker"


def _has_run(content: bytes, at: int) -> bool:
    """Whether one byte fills a word, as in a lost disk block; coded pictures hardly do that, except of one colour."""
    words = np.frombuffer(content, np.uint64, (len(content) - at) // 8, at)
    return bool((words == (words & np.uint64(0xFF)) * BYTES).any())


def _check_png(content: bytes) -> str | None:
    at = 8
    while at + 12 <= len(content):
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        stop = at + 8 + length
        if stop + 4 > len(content):
            break
        if zlib.crc32(memoryview(content)[at + 4 : stop]) != int.from_bytes(content[stop : stop + 4], "big"):
            return f"damaged: checksum of a chunk at byte {at}"
        if kind == b"IEND":
            return None
        at = stop + 4
    return "cut off: no end chunk"


def decode_each(items: Iterable[Item]) -> list[str | None]:
    """What the decoder says against each image, errors and warnings; None: nothing."""
    items = list(items)
    if not items:
        return []
    from vitas_ds.data import dali  # not above: most workers do without, and start faster

    reasons: list[str | None] = []
    with _stderr() as said:
        inputs = ({"bytes": [np.frombuffer(_read(item), np.uint8)]} for item in items)
        for readable in dali.readable(dali.Recipe(8, (0, 0, 0), (1, 1, 1)), inputs, "bytes"):
            words = said()
            reasons.append(None if readable and not words else f"not decodable: {words or 'unknown format'}")
    return reasons


@contextmanager
def _stderr() -> Iterator[Callable[[], str]]:
    """What C libraries write to this process's stderr: a function that gives what came since its last call."""
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)

        def said() -> str:
            text = os.pread(file.fileno(), 4096, 0).decode(errors="replace")
            os.ftruncate(file.fileno(), 0)
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            first = re.sub(r"\x1b\[[0-9;]*m", "", text).strip().split("\n")[0]
            return re.sub(r"^(\[[^]]*\]\s*|global \S+ )*", "", first)[:100]

        try:
            yield said
        finally:
            os.dup2(before, 2)
            os.close(before)
