"""Image sets: which files there are, what they show, and how they are split. Nothing here opens an image."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from vitas_ds.data.shards import read_shards, shards_of
from vitas_ds.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's ImageFolder
HOLD_OUT = 0x5EA2C4  # tag of the random stream that draws the search split


@dataclass(frozen=True)
class ImageSet:
    """Images of one folder or of tar shards, in a fixed order.

    ``paths`` are relative to ``root``; ``labels`` [n] int64 index ``classes``. In shards, ``paths`` are
    ``shard.tar/member.jpg`` and ``spans`` [n, 2] int64 holds offset and size of the member in its shard.
    """

    root: str
    paths: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    spans: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def file(self, index: int) -> str:
        """The path of image ``index``, as a person would open or name it."""
        return os.path.join(self.root, self.paths[index])

    def content(self, index: int) -> np.ndarray:
        """The encoded bytes of image ``index`` of a shard, uint8. Raises OSError."""
        assert self.spans is not None, "an image of its own is read from its path"
        offset, size = self.spans[index].tolist()
        shard = self.paths[index].partition(".tar/")[0] + ".tar"
        with open(os.path.join(self.root, shard), "rb") as file:
            return np.frombuffer(os.pread(file.fileno(), size, offset), np.uint8)

    def subset(self, indices: np.ndarray) -> ImageSet:
        """The images at ``indices`` [m]; classes stay as they are."""
        paths = tuple(self.paths[i] for i in indices)
        spans = None if self.spans is None else self.spans[indices]
        return replace(self, paths=paths, labels=self.labels[indices], spans=spans)


def read_folder(root: str | Path, exclude: str | Path | None = None, num_classes: int | None = None) -> ImageSet:
    """The images of ``root/class/**/name.jpg`` as torchvision's ImageFolder sees them: sorted classes, sorted names.

    Where ``root`` has tar files and no folders, they are WebDataset shards (see shards.py).

    Args:
        exclude: a text file with one image or shard a line (absolute, or relative to ``root``) that is left out.
        num_classes: how many classes there must be.

    Raises:
        UserError: no such folder, no class folders, a class without an image, or another number of classes.
    """
    images = _read(os.fspath(root), exclude)
    if num_classes not in (None, len(images.classes)):
        raise UserError(f"space.num_classes: {num_classes}, but {images.root} has {len(images.classes)} classes")
    return images


def _read(root: str, exclude: str | Path | None) -> ImageSet:
    if not os.path.isdir(root):
        raise UserError(f"{root or 'data.train and data.val: empty'}: no such folder of images")
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    if not classes and shards_of(root):
        return _from_shards(root, exclude)
    if not classes:
        raise UserError(f"{root}: no class folders; expected {root}/CLASS/*.jpg, one folder a class")
    found = [_images_of(root, name) for name in classes]
    left_out = read_list(exclude, root, chain(*found)) if exclude else frozenset()
    paths: list[str] = []
    labels: list[int] = []
    for label, (name, names) in enumerate(zip(classes, found, strict=True)):
        kept = [path for path in names if path not in left_out]
        if not kept:
            why = f"all {len(names)} are in {exclude}" if names else f"it needs a file ending in {', '.join(SUFFIXES)}"
            raise UserError(f"{os.path.join(root, name)}: class without an image ({why})")
        paths += kept
        labels += [label] * len(kept)
    return ImageSet(root, tuple(paths), np.array(labels, dtype=np.int64), tuple(classes))


def _from_shards(root: str, exclude: str | Path | None) -> ImageSet:
    whole = read_list(exclude, root, shards_of(root), warn=False) if exclude else frozenset()
    paths, labels, spans, classes = read_shards(root, whole)
    images = ImageSet(root, tuple(paths), labels, tuple(classes), spans)
    left_out = read_list(exclude, root, chain(paths, whole)) if exclude else frozenset()
    images = images.subset(np.array([i for i, path in enumerate(paths) if path not in left_out], dtype=np.int64))
    for label in np.flatnonzero(np.bincount(images.labels, minlength=len(classes)) == 0):
        raise UserError(f"{root}: class {classes[label]} without an image")
    return images


def _images_of(root: str, name: str) -> list[str]:
    """Relative paths of a class's images, in ImageFolder's order."""
    found = []
    for folder, _, files in sorted(os.walk(os.path.join(root, name), followlinks=True)):
        inside = os.path.relpath(folder, root)
        found += [os.path.join(inside, file) for file in sorted(files) if file.lower().endswith(SUFFIXES)]
    return found


def read_list(path: str | Path, root: str, names: Iterable[str], warn: bool = True) -> frozenset[str]:
    """Those of ``names`` that a list file has, a line each, absolute or relative to ``root``; can warn of other lines.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        lines = os.fsdecode(Path(path).read_bytes()).split("\n")
    except OSError as error:
        raise UserError(f"data.exclude: {path}: {error.strerror}") from None
    known, found, strays = set(names), set(), []
    for line in (line.removesuffix("\r") for line in lines if line.strip()):
        name = next((name for name in _spellings(line, root) if name in known), None)
        if name is None:
            strays.append(line)
        else:
            found.add(name)
    if strays and warn:
        warnings.warn(
            f"data.exclude: {path}: {len(strays)} of its lines name no image of {root}, such as {strays[0]!r}",
            stacklevel=2,
        )
    return frozenset(found)


def _spellings(line: str, root: str) -> Iterator[str]:
    """What an image may be called relative to ``root``; either may be given by way of links."""
    if not os.path.isabs(line):
        yield os.path.normpath(line)
        return
    folder, name = os.path.split(line)
    for path in (line, os.path.join(os.path.realpath(folder), name)):
        for base in (os.path.abspath(root), os.path.realpath(root)):
            yield os.path.relpath(path, base)


def write_list(names: Sequence[str], path: str | Path) -> None:
    """Write image names, one a line, as :func:`read_list` reads them."""
    text = "".join(f"{name}\n" for name in names)
    Path(path).write_text(text, errors="surrogateescape")


def in_one_line(name: str) -> str:
    """A name for a person: line breaks, bytes that are no text and the like as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def write_classes(classes: Sequence[str], path: str | Path) -> None:
    """Write the class map ``{"name": label}`` as JSON."""
    text = json.dumps({name: label for label, name in enumerate(classes)}, indent=1, ensure_ascii=False)
    Path(path).write_text(text + "\n", errors="surrogateescape")


def hold_out(images: ImageSet, per_class: int, seed: int) -> tuple[ImageSet, ImageSet]:
    """Split ``images`` into (train, search): ``per_class`` images of each class, drawn by seed, go to search.

    Raises:
        UserError: a class has so few images that none would be left to train on.
    """
    search = np.zeros(len(images), dtype=bool)
    for label, name in enumerate(images.classes):
        members = np.flatnonzero(images.labels == label)
        if len(members) <= per_class:
            raise UserError(
                f"data.search_per_class: {per_class} is too many for class {name} of {images.root}, "
                f"which has {len(members)} images; {len(members) - 1} or fewer"
            )
        rng = np.random.default_rng([seed, HOLD_OUT, label])
        search[rng.choice(members, per_class, replace=False)] = True
    return images.subset(np.flatnonzero(~search)), images.subset(np.flatnonzero(search))


def fingerprint(images: ImageSet) -> str:
    """SHA-256 of classes, names, labels and order: the same for the same set wherever its root lies."""
    digest = hashlib.sha256()
    for names in (images.classes, images.paths):
        digest.update("\0".join(names).encode(errors="surrogateescape") + b"\0\0")
    digest.update(np.ascontiguousarray(images.labels, dtype="<i8").tobytes())
    if images.spans is not None:
        digest.update(np.ascontiguousarray(images.spans, dtype="<i8").tobytes())
    return digest.hexdigest()
