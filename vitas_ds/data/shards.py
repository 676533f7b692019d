"""WebDataset tar shards: where each image lies, so that a full shuffle needs no reading in order."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from vitas_ds.errors import UserError

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff")
NUMBERS = r"(?P<extension>\S+) (?P<offset>\d+) (?P<size>\d+)"
# A file in a line of an index, by the version of DALI's wds2idx; only v1.2 has names, in which there may be spaces
MEMBERS = {
    "v1.1": re.compile(rf"{NUMBERS}(?: |$)"),
    "v1.2": re.compile(rf"{NUMBERS} (?P<name>.+?\.(?P=extension))(?: |$)"),
}
MOST_CLASSES = 1_000_000
Sample = dict[str, tuple[int, int]]  # extension -> offset and size in the shard


def shards_of(root: str) -> list[str]:
    """Names of the tar files in ``root``, sorted."""
    return sorted(entry.name for entry in os.scandir(root) if entry.name.endswith(".tar") and entry.is_file())


def read_shards(
    root: str, leave_out: Collection[str] = ()
) -> tuple[list[str], np.ndarray, np.ndarray, list[str]]:  # fmt: skip
    """Every image of the shards in ``root``: names ``shard.tar/key.jpg``, labels [n], spans [n, 2] and class names.

    A sample has an image and a ``.cls`` with its label as a decimal number. A ``shard.idx`` beside a shard, as DALI's
    wds2idx writes it, saves reading the shard's headers. Names come from ``classes.json`` (name -> label) in
    ``root``; without it, a class is called by its number. Shards in ``leave_out`` are not opened.

    Raises:
        UserError: not a tar file, a sample without image or label, a label that is no number or has no name.
    """
    images = [image for shard in shards_of(root) if shard not in leave_out for image in read_shard(root, shard)]
    names, labels, spans = zip(*images, strict=True) if images else ((), (), ())
    classes = class_names(root, max(labels, default=-1) + 1)
    return list(names), np.array(labels, np.int64), np.array(spans, np.int64).reshape(-1, 2), classes


def read_shard(root: str, shard: str) -> Iterator[tuple[str, int, tuple[int, int]]]:
    """Name, label and span of each image of a shard. Raises UserError as ``read_shards`` does."""
    path = os.path.join(root, shard)
    if not os.access(path, os.R_OK):
        raise UserError(f"{path}: may not be read")
    with open(path, "rb") as file:
        for key, sample in _samples(path):
            extension = next((e for e in sample if e.lower() in IMAGES), None)
            if extension is None or "cls" not in sample:
                missing = "a .cls" if extension else f"an image ({', '.join(IMAGES)})"
                raise UserError(f"{path}: sample {key} lacks {missing}")
            label = _label(os.pread(file.fileno(), sample["cls"][1], sample["cls"][0]), f"{path}: {key}.cls")
            yield f"{shard}/{key}.{extension}", label, sample[extension]


def _label(content: bytes, where: str) -> int:
    try:
        label = int(content)
    except ValueError:
        label = -1
    if not 0 <= label < MOST_CLASSES:
        raise UserError(f"{where}: {content[:20]!r} is not a label; a number from 0 to {MOST_CLASSES - 1}")
    return label


def class_names(root: str, count: int) -> list[str]:
    """Names of the classes of the shards in ``root``, of which there are ``count`` or more.

    Raises:
        UserError: its ``classes.json`` is no class map, or lacks a label.
    """
    path = Path(root) / "classes.json"
    if not path.is_file():
        return [str(label) for label in range(count)]
    try:
        names = {int(label): str(name) for name, label in json.loads(path.read_text()).items()}
    except (ValueError, AttributeError, TypeError):
        raise UserError(f'{path}: not a class map; {{"name": label, ...}}') from None
    if sorted(names) != list(range(len(names))) or len(names) < count:
        raise UserError(f"{path}: labels must be 0 ... {max(len(names), count) - 1}, each once")
    return [names[label] for label in range(len(names))]


def _samples(path: str) -> Iterator[tuple[str, Sample]]:
    """Samples of a shard: neighbours with the same key."""
    index = Path(path).with_suffix(".idx")
    if index.is_file():
        yield from _indexed(index, path)
        return
    key, sample = "", Sample()
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                this, extension = _split(member.name)
                if this != key and sample:
                    yield key, sample
                    sample = {}
                key = this
                sample[extension] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{path}: not a whole tar file: {error}") from None
    if sample:
        yield key, sample


def _split(name: str) -> tuple[str, str]:
    """A member's key and extension: what stands before and after the first dot of its file name."""
    folder, slash, name = name.rpartition("/")
    stem, _, extension = name.partition(".")
    return f"{folder}{slash}{stem}", extension


def _indexed(index: Path, shard: str) -> Iterator[tuple[str, Sample]]:
    """Samples by an index: a line ``v1.2 count``, then a line of ``extension offset size name`` ... a sample."""
    first, *lines = os.fsdecode(index.read_bytes()).removesuffix("\n").split("\n")
    version, _, count = first.partition(" ")
    if version not in MEMBERS:
        raise UserError(f"{index}: version {version or 'missing'}; {' or '.join(MEMBERS)} (see DALI's wds2idx)")
    if count.strip() != str(len(lines)):
        raise UserError(f"{index}: {len(lines)} samples, its first line says {count.strip()!r}; write the index again")
    member, end, size = MEMBERS[version], 0, os.path.getsize(shard)
    for number, line in enumerate(lines):
        where = f"{index}: line {number + 2}"
        found = list(member.finditer(line))
        if not found or "".join(match[0] for match in found) != line:
            raise UserError(f"{where}: not {' '.join(member.groupindex)} ...; write the index again")
        sample = {match["extension"]: (int(match["offset"]), int(match["size"])) for match in found}
        end = max(end, *(sum(span) for span in sample.values()))
        if end > size:
            raise UserError(f"{where} points beyond the shard; write the index again")
        yield _split(found[0]["name"])[0] if version == "v1.2" else f"{number:09}", sample
    _check_rest(index, shard, end)


def _check_rest(index: Path, shard: str, end: int) -> None:
    """Raise UserError if files follow in the shard after byte ``end``, where the index ends."""
    with open(shard, "rb") as file:
        file.seek(-(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
        try:
            with tarfile.open(fileobj=file, mode="r:") as rest:
                more = next((member.name for member in rest if member.isfile() and _split(member.name)[1]), None)
        except tarfile.TarError:  # nothing, or nothing of a tar file
            return
    if more:
        raise UserError(f"{index}: lacks {more} and what follows in {shard}; write the index again")
