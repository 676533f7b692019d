"""Shrink the images of a folder or of tar shards in advance, in worker processes (``resize-data``).

The images are processed in chunks. A chunk is complete once a line of the journal says so; an interrupted run repeats
only the incomplete ones. The result does not depend on the number of workers or on interruptions.
"""
# H and W height and width of an image in pixels

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from vitas_ds.data.lazy import load_dali
from vitas_ds.data.processing import size_problem
from vitas_ds.data.resized import NAME, read_settings
from vitas_ds.data.sources import ImageSet, fingerprint, read_folder, write_classes, write_list
from vitas_ds.data.walk import is_hidden
from vitas_ds.distributed import host
from vitas_ds.distributed.workers import pool as worker_pool
from vitas_ds.errors import UserError, shorten
from vitas_ds.errors.exits import DISK, naming
from vitas_ds.errors.reading import parse_json, read_text

CHUNK = 1000  # images of a chunk; with --format shards, of a shard
SAMPLE = 32  # images that estimate the size of the result
MARGIN = 1.1  # of the estimate
JOURNAL, UNREADABLE = ".resize.jsonl", "unreadable.txt"

Progress = Callable[[int, int], None]
Unreadable = list[tuple[str, str]]  # path and reason


@dataclass(frozen=True)
class Settings:
    """Everything the result depends on."""

    short_side: int
    quality: int
    format: Literal["folder", "shards"]


Job = tuple[ImageSet, int, int, Path, Settings]  # arguments of _write_chunk


class BadImageError(Exception):
    """The content is not a readable image."""


def resize_data(
    source: Path, target: Path, settings: Settings, workers: int = 0, progress: Progress | None = None
) -> tuple[int, Unreadable]:
    """Write the images of ``source`` to ``target`` with the same classes and order.

    Args:
        source: Folder of images or of tar shards.
        target: New folder, or the unfinished one of an earlier call with the same source and settings.
        settings: Size, quality and format.
        workers: Number of processes; 0: one per core.
        progress: Called with the number of finished images and of all images.

    Returns:
        The number of images, and path and reason of each unreadable one. Those are left out.

    Raises:
        UserError: The folders do not fit, or the disk is too small.
    """
    images = read_folder(source)
    if settings.format == "folder" and images.spans is not None:
        _check_names(source, images)
    about = asdict(settings) | {"source": str(source.absolute()), "images": len(images),
                                "classes": len(images.classes), "fingerprint": fingerprint(images)}  # fmt: skip
    if not _is_complete(source, target, about):
        with naming(target), open(target / JOURNAL, "a", encoding="utf-8") as journal:
            _lock(journal, target)
            if _is_complete(source, target, about):  # by another process, just now
                (target / JOURNAL).unlink(missing_ok=True)
            else:
                _write_json(target / NAME, about | {"complete": False})
                unreadable = _resize(images, target, settings, workers, progress, journal)
                _finish(target, settings, images, about, unreadable)
    return len(images), [tuple(pair) for pair in (read_settings(target) or {})["unreadable"]]


def _check_names(source: Path, images: ImageSet) -> None:
    """Check that the classes and members of shards can become folders and files below the target.

    Raises:
        UserError: The order of the classes would change, or a name would leave the target.
    """
    fix = "use --format shards"
    if images.classes != tuple(sorted(images.classes)):
        raise UserError(f"{source}: the classes are not in alphabetical order, so folders would change labels; {fix}")
    for name in images.classes:
        if not name or "/" in name or "\0" in name or is_hidden(name):
            raise UserError(f"{source}/classes.json: {shorten(repr(name), 60)} cannot be the name of a folder; {fix}")
    for path in images.paths:
        member = path.partition(".tar/")[2]
        if member.startswith("/") or ".." in member.split("/"):
            raise UserError(f"{source}: {shorten(path, 100)}: this name leaves its folder; {fix}")


def _resize(images: ImageSet, target: Path, settings: Settings, workers: int, progress: Progress | None,
            journal: TextIO) -> Unreadable:  # fmt: skip
    """Process the chunks missing in the journal, and add them to it; return the unreadable images of all chunks."""
    chunks = [range(i, min(i + CHUNK, len(images))) for i in range(0, len(images), CHUNK)]
    done = _read_journal(target)
    _check_disk(images, [i for n, chunk in enumerate(chunks) if n not in done for i in chunk], target, settings)
    for number, bad in _run(images, target, settings, chunks, done, workers):
        journal.write(json.dumps({"chunk": number, "unreadable": bad}) + "\n")
        journal.flush()
        os.fsync(journal.fileno())
        done[number] = bad
        if progress:
            progress(sum(len(chunks[n]) for n in done), len(images))
    return [(path, reason) for number in sorted(done) for path, reason in done[number]]


def _finish(target: Path, settings: Settings, images: ImageSet, about: dict[str, Any],
            unreadable: Unreadable) -> None:  # fmt: skip
    if settings.format == "shards":
        write_classes(images.classes, target / "classes.json")
    if unreadable:
        write_list([path for path, _ in unreadable], target / UNREADABLE)
    os.sync()
    _write_json(target / NAME, about | {"complete": True, "unreadable": unreadable})
    (target / JOURNAL).unlink()


def _is_complete(source: Path, target: Path, about: dict[str, Any]) -> bool:
    """Check the target; return whether an earlier call has finished it.

    Raises:
        UserError: It contains something else.
    """
    if source.resolve() in (target.resolve(), *target.resolve().parents):
        raise UserError(f"{target}: is inside of {source}; choose another folder")
    try:
        target.mkdir(parents=True, exist_ok=True)
        empty = all(path.name in (f".{NAME}.tmp", JOURNAL) for path in target.iterdir())  # a kill may leave them
        found = about | {"complete": False} if empty else read_settings(target)
    except OSError as error:
        if error.errno in DISK:
            raise
        raise UserError(f"{target}: cannot be written ({error.strerror})") from None
    if found is None:
        raise UserError(f"{target}: is not empty; choose a new folder")
    different = [name for name, value in about.items() if found.get(name) != value]
    if different:
        raise UserError(f"{target}: is not empty: it has the images of resize-data with another {different[0]} "
                        f"({found.get(different[0])}, now {about[different[0]]}); choose a new folder")  # fmt: skip
    return bool(found["complete"])


def _lock(journal: TextIO, target: Path) -> None:
    """Keep other processes of this machine out of the folder until the journal is closed.

    Raises:
        UserError: One is at work there.
    """
    with suppress(OSError):  # a file system without locks
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{target}: another resize-data writes to it; wait for its end") from None


def _read_journal(target: Path) -> dict[int, Unreadable]:
    """Return the unreadable images of each complete chunk. An incomplete last line is ignored, and removed."""
    path, done = target / JOURNAL, dict[int, Unreadable]()
    text = read_text(path) if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    for number, line in enumerate(whole.splitlines(), 1):
        row = parse_json(line, f"{path}: line {number}")
        try:
            done[int(row["chunk"])] = [(str(name), str(reason)) for name, reason in row["unreadable"]]
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path}: line {number}: expected chunk and unreadable; choose a new folder") from None
    if whole != text:
        path.write_text(whole)
    return done


def _check_disk(images: ImageSet, remaining: list[int], target: Path, settings: Settings) -> None:
    """Estimate the size of the result from some images and compare it with the free space."""
    sizes = []
    for i in remaining[:: max(1, len(remaining) // SAMPLE)]:
        try:
            sizes.append(len(shrink(_content(images, i), settings)))
        except (BadImageError, OSError):
            continue
    needed = int(MARGIN * len(remaining) * np.mean(sizes)) if sizes else 0
    free = shutil.disk_usage(target).free
    if needed > free:
        raise UserError(f"{target}: needs about {needed / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB free; "
                        "choose another disk, or a smaller --short-side or --quality")  # fmt: skip


def _run(images: ImageSet, target: Path, settings: Settings, chunks: list[range], done: dict[int, Any], workers: int
         ) -> Iterator[tuple[int, Unreadable]]:  # fmt: skip
    """Yield the number and the unreadable images of each chunk once it is on disk, in any order."""
    todo = [number for number in range(len(chunks)) if number not in done]
    jobs = ((images.subset(np.array(chunks[number])), number, chunks[number][0], target, settings) for number in todo)
    count = min(workers or host.workers(), len(todo))
    try:
        with naming(target):
            yield from _run_in_processes(jobs, count) if count > 1 else ((job[1], _write_chunk(*job)) for job in jobs)
    except OSError as error:
        if error.errno in DISK:
            raise
        raise UserError(f"{target}: {error.strerror or error}; start again to continue") from None
    except BrokenProcessPool:
        raise UserError("resize-data: a worker process died (out of memory?); start again to continue, with fewer "
                        "--workers") from None  # fmt: skip


def _run_in_processes(jobs: Iterator[Job], count: int) -> Iterator[tuple[int, Unreadable]]:
    with worker_pool(count) as pool:
        running: dict[Future[Unreadable], int] = {}
        while True:
            for job in islice(jobs, 2 * count - len(running)):
                running[pool.submit(_write_chunk, *job)] = job[1]
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()


def _write_chunk(images: ImageSet, number: int, first: int, target: Path, settings: Settings) -> Unreadable:
    """Write chunk ``number``, as files or as a shard; return path and reason of each unreadable image.

    ``first`` is the index of its first image in the whole set.
    """
    bad: Unreadable = []
    if settings.format == "shards":
        path = target / f"shard-{number:06}.tar"
        temporary = path.with_name(f".{path.name}.tmp")
        with tarfile.open(temporary, "w") as tar:
            for i, content in _shrunk(images, settings, bad):
                key, kind = f"{first + i:09}", "png" if content.startswith(b"\x89PNG") else "jpg"
                _add(tar, f"{key}.{kind}", content)
                _add(tar, f"{key}.cls", str(images.labels[i]).encode())
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        return bad
    for i, content in _shrunk(images, settings, bad):
        path = target / images.paths[i] if images.spans is None else _member_path(images, i, target)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{number}.tmp")  # a name of 255 bytes has no room for a suffix
        temporary.write_bytes(content)
        temporary.replace(path)
    return bad


def _member_path(images: ImageSet, i: int, target: Path) -> Path:
    """Return the path of a member of a shard: its class, then shard and member, which keeps the order."""
    shard, _, member = images.paths[i].partition(".tar/")
    return target / images.classes[images.labels[i]] / shard / member


def _shrunk(images: ImageSet, settings: Settings, bad: Unreadable) -> Iterator[tuple[int, bytes]]:
    """Yield index and new content of each image; append the unreadable ones to ``bad``."""
    for i in range(len(images)):
        try:
            yield i, shrink(_content(images, i), settings)
        except BadImageError as error:
            bad.append((images.file(i), str(error)))


def _content(images: ImageSet, i: int) -> bytes:
    try:
        return images.content(i).tobytes() if images.spans is not None else Path(images.file(i)).read_bytes()
    except OSError as error:
        raise BadImageError(error.strerror or str(error)) from None


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)  # no time, no owner: the same bytes in every run
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def shrink(content: bytes, settings: Settings) -> bytes:
    """Return an encoded image with the shorter side ``short_side``, as JPEG; a smaller image as it is.

    The pixels are those that training reads: RGB, EXIF orientation ignored.

    Raises:
        BadImageError: The content is not a readable image.
    """
    try:
        Image.MAX_IMAGE_PIXELS = None  # size_problem is the limit
        with Image.open(io.BytesIO(content)) as image:
            if problem := size_problem(*image.size):
                raise BadImageError(problem)
            size = _new_size(image.size, settings.short_side)
            small = _read_small(image, content, size)
    except UnidentifiedImageError:  # its text is an address in memory
        raise BadImageError("unknown format" if content else "empty") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadImageError(" ".join(str(error).split())) from None
    if size is None:
        return content
    out = io.BytesIO()
    small.resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=settings.quality)
    return out.getvalue()


def _new_size(size: tuple[int, int], short_side: int) -> tuple[int, int] | None:
    """Return (W, H) as torchvision's Resize rounds it; None if the image is not larger."""
    short = min(size)
    return None if short <= short_side else (size[0] * short_side // short, size[1] * short_side // short)


def _read_small(image: Image.Image, content: bytes, size: tuple[int, int] | None) -> Image.Image:
    """Decode to RGB. A JPEG is decoded at a fraction of its size, at least twice ``size``."""
    if image.format != "JPEG":
        return _decode_with_dali(content)
    if size is not None:
        image.draft(image.mode, (2 * size[0], 2 * size[1]))
    return image.convert("RGB")


def _decode_with_dali(content: bytes) -> Image.Image:
    """Decode as training does. For palettes and 16-bit pixels, Pillow's conversion is another one."""
    pixels = load_dali().decode(np.frombuffer(content, np.uint8))
    if pixels is None:
        raise ValueError("not decodable")
    return Image.fromarray(pixels)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    temporary.replace(path)
