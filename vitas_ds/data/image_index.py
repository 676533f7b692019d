"""The index of an image folder: one file with all names and labels, which ranks map instead of listing the folder.

``vitas index DATA`` writes ``DATA/index.vitas``. It is up to date as long as the class folders are the same and no
folder in them was modified: creating, renaming or deleting a file changes the modification time of its folder. The
ranks of a node share the pages of the file. Sections, each aligned to 64 bytes:

    header    JSON in a line of HEADER bytes: format, number of images and folders, sizes of the texts
    ends      int64 [n]: see names.py
    labels    int64 [n]
    times     int64 [F]: modification times of the folders, in ns
    folders   names of the folders, each followed by a zero byte, relative to DATA
    classes   names of the classes, each followed by a zero byte
    names     names of the images, each followed by a zero byte, relative to DATA
"""
# n images, F folders

from __future__ import annotations

import json
import os
import warnings
from array import array
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vitas_ds.data.names import Names
from vitas_ds.errors.reading import open_binary

FILE = "index.vitas"
FORMAT = "vitas_ds image index 1"
HEADER, ALIGN = 512, 64  # bytes
THREADS = 16  # that ask for modification times: on a network file system, each answer takes up to a millisecond


@dataclass
class Listing:
    """Images of one class.

    Attributes:
        names: Names of the images, relative to the root, in order.
        folders: Their folders, with those without images.
        times: Modification times of the folders, from before they were listed.
    """

    names: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    times: list[int] = field(default_factory=list)


def write(root: str, classes: Sequence[str], listings: Iterable[Listing]) -> Path:
    """Write the index of a folder atomically. ``listings`` has the images of each class.

    Raises:
        OSError: The folder is not writable, or the disk is full.
    """
    ends, labels, times, texts, folders = array("q"), array("q"), array("q"), [], []
    end = 0
    for label, listing in enumerate(listings):
        for name in map(os.fsencode, listing.names):
            end += len(name) + 1
            ends.append(end)
        texts.append(_text(listing.names))
        folders.append(_text(listing.folders))
        times.extend(listing.times)
        labels.extend([label] * len(listing.names))
    sections = [np.asarray(part) for part in (ends, labels, times)]
    sections += [np.frombuffer(text, np.uint8) for text in (b"".join(folders), _text(classes), b"".join(texts))]
    header = {"format": FORMAT, "sizes": [section.nbytes for section in sections]}
    path = Path(root, FILE)
    aside = path.with_name(f".{FILE}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(json.dumps(header).encode().ljust(HEADER - 1) + b"\n")
            for section in sections:
                file.write(section.tobytes().ljust(_aligned(section.nbytes), b"\0"))
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def read(root: str, classes: Sequence[str]) -> tuple[Names, np.ndarray] | None:
    """Map the index of a folder: names and labels [n]. None if there is none, or with a warning, if it is out of date.

    Args:
        root: Folder of the images.
        classes: Names of its class folders, sorted.
    """
    path = Path(root, FILE)
    if not path.is_file():
        return None
    sections = _map(path)
    if sections is None:
        warnings.warn(f"{path}: damaged, the folder is listed instead; run `vitas index {root}` again", stacklevel=3)
        return None
    ends, labels, times, folders, known_classes, names = sections
    changed = _changed(root, _names(folders), times.view(np.int64))
    if changed is None and bytes(known_classes) != _text(classes):
        changed = root
    if changed is not None:
        warnings.warn(
            f"{path}: {changed} has changed since, the folder is listed instead; run `vitas index {root}` again",
            stacklevel=3,
        )
        return None
    return Names(names, ends.view(np.int64)), labels.view(np.int64)


def _map(path: Path) -> list[np.ndarray] | None:
    """Map the sections of an index as bytes; None if the file is damaged."""
    try:
        with open_binary(path) as file:
            header = json.loads(file.read(HEADER))
        sizes = header["sizes"] if header["format"] == FORMAT else []
    except (ValueError, KeyError, TypeError):
        return None
    starts = np.cumsum([HEADER, *map(_aligned, sizes)]).tolist()
    if len(sizes) != 6 or path.stat().st_size != starts[-1]:
        return None
    content = np.memmap(path, np.uint8, "r")
    return [np.asarray(content[start : start + size]) for start, size in zip(starts, sizes, strict=False)]


def _changed(root: str, folders: Sequence[str], times: np.ndarray) -> str | None:
    """Return a folder modified after the index was written, if any."""

    def modified(folder: str) -> int:
        try:
            return os.stat(os.path.join(root, folder)).st_mtime_ns
        except OSError:
            return -1

    with ThreadPoolExecutor(THREADS) as pool:
        now = np.fromiter(pool.map(modified, folders, chunksize=64), np.int64, len(folders))
    different = np.flatnonzero(now != times)
    return os.path.join(root, folders[different[0]]) if len(different) else None


def _text(names: Sequence[str]) -> bytes:
    return b"".join(os.fsencode(name) + b"\0" for name in names)


def _names(text: np.ndarray) -> list[str]:
    return os.fsdecode(text.tobytes()).split("\0")[:-1]


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN
