"""Record the sizes, times and digests of the files of an image set, to detect changes.

A record is a text file: a line of JSON, then size, modification time in ns, digest or ``-``, and name of each file. Of
a large set, it has at most about ``MOST`` files, chosen by a hash of their names, and digests of the first ones in the
order of the hash, up to ``READ`` bytes and ``READ_FILES`` files. Two sets are equal if names and sizes are, and each
file with another time has an equal digest. Files without a digest count as changed if their time has changed, unless
all times have: then the set is a copy. A new file of the same size and time as the old one is not noticed. Neither is a
change of a file outside of the chosen ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

from vitas_ds.data.sources import ImageSet, fingerprint
from vitas_ds.errors import UserError, shorten
from vitas_ds.errors.reading import read_bytes

MOST = 100_000  # files of a record; on a network file system, asking for their sizes takes up to 10 s
READ, READ_FILES = 128 << 20, 10_000  # bytes and files read for digests; a slow disk finds 500 small files per second
THREADS = 16
MAX_RECORD = 1 << 30  # bytes
NONE, NEWLINE, SHA256 = "-", "\0", "sha256"

Found = TypeVar("Found")
State = tuple[int, int]  # size in bytes and modification time in ns; -1 without a file


@dataclass(frozen=True)
class Record:
    """Contents of an image set at one time."""

    root: str
    images: int
    names: str  # fingerprint of all names, classes and labels
    every: int  # one of so many files is in the record
    files: dict[str, tuple[State, str]]


def take(images: ImageSet) -> Record:
    """Return the current contents of an image set, with digests."""
    every = -(-len(images) // MOST)
    names = _choose(images, every)
    states = _stat(images.root, names)
    digests = _digests(images.root, _first(states))
    files = {name: (states[name], digests.get(name, NONE)) for name in names}
    return Record(images.root, len(images), fingerprint(images), every, files)


def _first(states: dict[str, State]) -> list[str]:
    """Return the first files in the order of the hash, up to ``READ`` bytes and ``READ_FILES`` files."""
    names = sorted(states, key=_order)[:READ_FILES]
    ends = accumulate(max(states[name][0], 0) for name in names)
    return [name for name, end in zip(names, ends, strict=True) if end <= READ]


def digest(images: ImageSet) -> str:
    """Return a digest of names, classes, sizes and contents. Location and times do not matter."""
    if images.seed is not None:  # random images without files
        return fingerprint(images)
    record = take(images)
    rows = [[name, size, known] for name, ((size, _), known) in record.files.items()]
    return hashlib.sha256(json.dumps([record.names, rows]).encode()).hexdigest()


def to_text(record: Record) -> str:
    """Return the record as the text of its file."""
    head = {"root": record.root, "images": record.images, "names": record.names, "every": record.every}
    rows = [
        f"{size} {time} {known} {name}".replace("\n", NEWLINE) for name, ((size, time), known) in record.files.items()
    ]
    return "\n".join([json.dumps(head | {SHA256: _sha256(head, rows)}), *rows]) + "\n"


def read(path: Path) -> Record:
    """Read a record.

    Raises:
        FileNotFoundError: There is none.
        UserError: It was changed.
    """
    try:
        first, *lines = read_bytes(path, MAX_RECORD).decode(errors="surrogateescape").split("\n")[:-1]
        head = json.loads(first)
        if head.pop(SHA256) != _sha256(head, lines):
            raise _damaged(path)
        rows = [line.replace(NEWLINE, "\n").split(" ", 3) for line in lines]
        files = {name: ((int(size), int(time)), known) for size, time, known, name in rows}
        return Record(files=files, **head)
    except (ValueError, TypeError, AttributeError, KeyError):
        raise _damaged(path) from None


def _sha256(head: dict[str, Any], rows: Sequence[str]) -> str:
    """Return a digest of a record."""
    return hashlib.sha256("\n".join([json.dumps(head), *rows]).encode(errors="surrogateescape")).hexdigest()


def _damaged(path: Path) -> UserError:
    return UserError(f"{path}: not a record of images as it was written; restore it, or remove it")


def difference(old: Record, images: ImageSet) -> str:
    """Return in a few words how the images differ from a record; "" if they do not."""
    names = _choose(images, old.every)
    if fingerprint(images) != old.names:
        new, gone = [name for name in names if name not in old.files], sorted(old.files.keys() - set(names))
        example = f", e.g. {_show(new[0])} is new" if new else f", e.g. {_show(gone[0])} is missing" if gone else ""
        if len(images) == old.images:
            return f"{len(new) or 'some'} of {len(images):,} images have other names or classes{example}"
        return f"{len(images):,} images instead of {old.images:,}{example}"
    changed = _changed(old, names, images.root)
    if not changed:
        return ""
    count = f"{'at least ' if old.every > 1 else ''}{len(changed):,} file{'s differ' if changed[1:] else ' differs'}"
    return f"{count}, e.g. {_show(changed[0])}"


def _changed(old: Record, names: Sequence[str], root: str) -> list[str]:
    states = _stat(root, names)
    touched = [name for name in names if states[name][1] != old.files[name][0][1]]
    copied = len(touched) == len(names)
    changed = {name for name in names if states[name][0] != old.files[name][0][0]}
    if not copied:
        changed |= {name for name in touched if old.files[name][1] == NONE}
    known = {name: old.files[name][1] for name in touched if old.files[name][1] != NONE and name not in changed}
    changed |= {name for name, digest in _digests(root, list(known)).items() if digest != known[name]}
    return [name for name in names if name in changed]


def _choose(images: ImageSet, every: int) -> list[str]:
    """Return the files of the record; of shards, the tar files."""
    if images.spans is not None:
        return sorted({f"{name.partition('.tar/')[0]}.tar" for name in images.paths})
    return [name for name in images.paths if every < 2 or _order(name) % every == 0]


def _order(name: str) -> int:
    return zlib.crc32(os.fsencode(name))


def _stat(root: str, names: Sequence[str]) -> dict[str, State]:
    def one(name: str) -> State:
        try:
            info = os.stat(os.path.join(root, name))
        except OSError:
            return -1, -1
        return info.st_size, info.st_mtime_ns

    return _at_once(one, names)


def _digests(root: str, names: Sequence[str]) -> dict[str, str]:
    def one(name: str) -> str:
        with suppress(OSError), open(os.path.join(root, name), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
        return "missing"

    return _at_once(one, names)


def _at_once(function: Callable[[str], Found], names: Sequence[str]) -> dict[str, Found]:
    """Apply a function to files in threads: small files take as long as their disk or server needs to find them."""
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(names, pool.map(function, names), strict=True))


def _show(name: str) -> str:
    return shorten(name, 80)
