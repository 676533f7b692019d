"""WebDataset tar shards: locate every image, which allows a full shuffle instead of sequential reading."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from vitas_ds.data.walk import is_hidden, shards_of, text_name
from vitas_ds.errors import UserError
from vitas_ds.errors.reading import check_regular, read_json

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff")
LOCATION = r"(?P<extension>\S+) (?P<offset>\d+) (?P<size>\d+)"
# One file in a line of an index, by the version of DALI's wds2idx. Only v1.2 has names, and they may contain spaces.
MEMBERS = {
    "v1.1": re.compile(rf"{LOCATION}(?: |$)"),
    "v1.2": re.compile(rf"{LOCATION} (?P<name>.+?\.(?P=extension))(?: |$)"),
}
MAX_CLASSES = 1_000_000
Sample = dict[str, tuple[int, int]]  # extension -> offset and size in the shard


def read_shards(
    root: str, exclude: Collection[str] = ()
) -> tuple[list[str], np.ndarray, np.ndarray, list[str]]:  # fmt: skip
    """List every image of the shards in ``root``.

    A sample consists of an image and a ``.cls`` file with its label as a decimal number. If DALI's wds2idx wrote a
    ``shard.idx`` next to a shard, the shard's headers are not read. Class names come from ``classes.json``
    (name -> label) in ``root``; without it, the name of a class is its number.

    Args:
        root: Folder of the shards.
        exclude: Shards to skip.

    Returns:
        Names ``shard.tar/key.jpg``, labels [n], spans [n, 2] (offset and size in the shard), and class names.

    Raises:
        UserError: A file is not a tar file, a sample has no image or label, a label is not a number or has no name.
    """
    images = [image for shard in shards_of(root) if shard not in exclude for image in read_shard(root, shard)]
    names, labels, spans = zip(*images, strict=True) if images else ((), (), ())
    classes = class_names(root, max(labels, default=-1) + 1)
    return list(names), np.array(labels, np.int64), np.array(spans, np.int64).reshape(-1, 2), classes


def read_shard(root: str, shard: str) -> Iterator[tuple[str, int, tuple[int, int]]]:
    """Yield name, label and span of each image of a shard.

    Raises:
        UserError: As ``read_shards``.
    """
    path = os.path.join(root, shard)
    if not os.access(path, os.R_OK):
        raise UserError(f"{path}: no permission to read")
    check_regular(path)
    with open(path, "rb") as file:
        for key, sample in _samples(path):
            extension = next((e for e in sample if e.lower() in IMAGES), None)
            if extension is None or "cls" not in sample:
                missing = ".cls file" if extension else f"image ({', '.join(IMAGES)})"
                raise UserError(f"{path}: sample {key} has no {missing}")
            label = _label(os.pread(file.fileno(), sample["cls"][1], sample["cls"][0]), f"{path}: {key}.cls")
            yield f"{shard}/{key}.{extension}", label, sample[extension]


def _label(content: bytes, where: str) -> int:
    try:
        label = int(content)
    except ValueError:
        label = -1
    if not 0 <= label < MAX_CLASSES:
        raise UserError(f"{where}: {content[:20]!r} is not a label; use a number from 0 to {MAX_CLASSES - 1}")
    return label


def class_names(root: str, count: int) -> list[str]:
    """Return the names of at least ``count`` classes of the shards in ``root``.

    Raises:
        UserError: ``classes.json`` is not a class map, or a label has no name.
    """
    path = Path(root) / "classes.json"
    if not path.is_file():
        return [str(label) for label in range(count)]
    try:
        names = {int(label): text_name(str(name)) for name, label in read_json(path, dict).items()}
    except (ValueError, AttributeError, TypeError, OverflowError):
        raise UserError(f'{path}: not a class map; expected {{"name": label, ...}}') from None
    if sorted(names) != list(range(len(names))) or len(names) < count:
        raise UserError(f"{path}: expected each label from 0 to {max(len(names), count) - 1} exactly once")
    return [names[label] for label in range(len(names))]


def _samples(path: str) -> Iterator[tuple[str, Sample]]:
    """Yield the samples of a shard: consecutive files with the same key."""
    index = Path(path).with_suffix(".idx")
    if index.is_file():
        yield from _read_index(index, path)
        return
    key, sample = "", Sample()
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile() or _is_hidden(member.name):
                    continue
                member_key, extension = _split_name(member.name)
                if member_key != key and sample:
                    yield key, sample
                    sample = {}
                key = member_key
                sample[extension] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{path}: not a complete tar file: {error}") from None
    if sample:
        yield key, sample


def _is_hidden(name: str) -> bool:
    """Return whether a member is in a hidden folder, or hidden itself, as macOS's ``._cat.jpg``."""
    return any(is_hidden(part) for part in name.split("/") if part not in (".", ".."))


def _split_name(name: str) -> tuple[str, str]:
    """Split a member's name into key and extension at the first dot of the file name."""
    folder, slash, name = name.rpartition("/")
    stem, _, extension = name.partition(".")
    return f"{folder}{slash}{stem}", extension


def _read_index(index: Path, shard: str) -> Iterator[tuple[str, Sample]]:
    """Yield the samples of an index.

    Its first line is ``v1.2 count``. Each other line is a sample: ``extension offset size name extension offset ...``.
    """
    first, *lines = os.fsdecode(index.read_bytes()).removesuffix("\n").split("\n")
    version, _, count = first.partition(" ")
    if version not in MEMBERS:
        supported = " or ".join(MEMBERS)
        raise UserError(f"{index}: version {version or 'missing'}; use {supported} (see DALI's wds2idx)")
    if count.strip() != str(len(lines)):
        raise UserError(f"{index}: {len(lines)} samples, but the first line says {count.strip()!r}; recreate the index")
    end, size = 0, os.path.getsize(shard)
    for number, line in enumerate(lines):
        where = f"{index}: line {number + 2}"
        key, sample = _parse_line(line, MEMBERS[version], where)
        end = max(end, *(sum(span) for span in sample.values()))
        if end > size:
            raise UserError(f"{where}: points beyond the end of the shard; recreate the index")
        if not key or not _is_hidden(key):
            yield f"{number:09}" if key is None else key, sample
    _check_complete(index, shard, end)


def _parse_line(line: str, member: re.Pattern[str], where: str) -> tuple[str | None, Sample]:
    """Return key and files of one line of an index; v1.1 has no names and thus no key."""
    found = list(member.finditer(line))
    if not found or "".join(match[0] for match in found) != line:
        raise UserError(f"{where}: expected {' '.join(member.groupindex)} ...; recreate the index")
    sample = {match["extension"]: (int(match["offset"]), int(match["size"])) for match in found}
    return (_split_name(found[0]["name"])[0] if "name" in member.groupindex else None), sample


def _check_complete(index: Path, shard: str, end: int) -> None:
    """Check that the shard has no files after byte ``end``, the end of the index."""
    with open(shard, "rb") as file:
        file.seek(-(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
        try:
            with tarfile.open(fileobj=file, mode="r:") as rest:
                missing = next((m.name for m in rest if m.isfile() and _split_name(m.name)[1]), None)
        except tarfile.TarError:  # the end of the file, or bytes that do not belong to the archive
            return
    if missing:
        raise UserError(f"{index}: {missing} and later files of {shard} are missing; recreate the index")
