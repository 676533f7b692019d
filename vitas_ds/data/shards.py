"""WebDataset tar shards: where each image lies, so that a full shuffle needs no reading in order."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vitas_ds.errors import UserError

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff")
INDEX_VERSIONS = ("v1.1", "v1.2")  # of DALI's wds2idx; only v1.2 has names
Sample = dict[str, tuple[int, int]]  # extension -> offset and size in the shard


def shards_of(root: str) -> list[str]:
    """Names of the tar files in ``root``, sorted."""
    return sorted(entry.name for entry in os.scandir(root) if entry.name.endswith(".tar") and entry.is_file())


def read_shards(root: str) -> tuple[list[str], np.ndarray, np.ndarray, list[str]]:
    """Every image of the shards in ``root``: names ``shard.tar/key.jpg``, labels [n], spans [n, 2] and class names.

    A sample has an image and a ``.cls`` with its label as a decimal number. A ``shard.idx`` beside a shard, as DALI's
    wds2idx writes it, saves reading the shard's headers. Names come from ``classes.json`` (name -> label) in
    ``root``; without it, a class is called by its number.

    Raises:
        UserError: not a tar file, a sample without image or label, a label that is no number or has no name.
    """
    names: list[str] = []
    labels: list[int] = []
    spans: list[tuple[int, int]] = []
    for shard in shards_of(root):
        path = os.path.join(root, shard)
        with open(path, "rb") as file:
            for key, sample in _samples(path):
                extension = next((e for e in sample if e.lower() in IMAGES), None)
                if extension is None or "cls" not in sample:
                    missing = "a .cls" if extension else f"an image ({', '.join(IMAGES)})"
                    raise UserError(f"{path}: sample {key} lacks {missing}")
                labels.append(_label(os.pread(file.fileno(), sample["cls"][1], sample["cls"][0]), f"{path}: {key}.cls"))
                names.append(f"{shard}/{key}.{extension}")
                spans.append(sample[extension])
    classes = _class_names(root, max(labels, default=-1) + 1)
    return names, np.array(labels, dtype=np.int64), np.array(spans, dtype=np.int64).reshape(-1, 2), classes


def _label(content: bytes, where: str) -> int:
    try:
        label = int(content)
    except ValueError:
        label = -1
    if label < 0:
        raise UserError(f"{where}: {content[:20]!r} is not a label; a number from 0 on")
    return label


def _class_names(root: str, count: int) -> list[str]:
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
        yield from _indexed(index, os.path.getsize(path))
        return
    key, sample = "", Sample()
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                this = f"{folder}/{stem}" if folder else stem
                if this != key and sample:
                    yield key, sample
                    sample = {}
                key = this
                sample[extension] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{path}: not a whole tar file: {error}") from None
    if sample:
        yield key, sample


def _indexed(index: Path, shard_size: int) -> Iterator[tuple[str, Sample]]:
    """Samples by an index: a line ``v1.2 count``, then a line of ``extension offset size name`` ... a sample."""
    first, *lines = index.read_text().splitlines()
    version = first.split()[0] if first else ""
    if version not in INDEX_VERSIONS:
        raise UserError(f"{index}: version {version or 'missing'}; {' or '.join(INDEX_VERSIONS)} (see DALI's wds2idx)")
    step = 4 if version == "v1.2" else 3
    for number, line in enumerate(lines):
        words = line.split()
        parts = [words[i : i + step] for i in range(0, len(words), step)]
        sample = {part[0]: (int(part[1]), int(part[2])) for part in parts}
        if any(offset + size > shard_size for offset, size in sample.values()):
            raise UserError(f"{index}: line {number + 2} points beyond the shard; write the index again")
        yield parts[0][3].partition(".")[0] if step == 4 else f"{number:09}", sample
