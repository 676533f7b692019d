"""Image sets: list the images of a folder with their labels, exclude some, and split. No image is opened here."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter
from pathlib import Path

import numpy as np

from vitas_ds.data import image_index
from vitas_ds.data.image_index import Listing
from vitas_ds.data.names import choose, joined
from vitas_ds.data.sampler import steps_per_epoch
from vitas_ds.data.shards import read_shards
from vitas_ds.data.walk import SUFFIXES, Folder, list_folder, shards_of, text_name, walk, warn_hidden
from vitas_ds.errors import UserError
from vitas_ds.errors.reading import read_bytes

MAX_LIST = 4 << 30  # bytes of a list of file names
HOLD_OUT = 0x5EA2C4  # tag of the random stream of the search split


@dataclass(frozen=True)
class ImageSet:
    """Images of one folder or of tar shards, in a fixed order.

    ``paths`` are relative to ``root``, a tuple or ``Names``; ``labels`` [n] int64 index ``classes``. For shards,
    ``paths`` are ``shard.tar/member.jpg``, and ``spans`` [n, 2] int64 contains the offset and size of each member in
    its shard.
    ``seed`` is that of random images without files (synthetic.py).
    """

    root: str
    paths: Sequence[str]
    labels: np.ndarray
    classes: tuple[str, ...]
    spans: np.ndarray | None = None
    seed: int | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def file(self, index: int) -> str:
        """Return the full path of image ``index``, for opening a file or for messages."""
        return os.path.join(self.root, self.paths[index])

    def content(self, index: int) -> np.ndarray:
        """Return the encoded bytes of image ``index`` of a shard, uint8.

        Raises:
            OSError: The shard cannot be read.
        """
        assert self.spans is not None, "images outside of shards are read by path"
        offset, size = self.spans[index].tolist()
        shard = self.paths[index].partition(".tar/")[0] + ".tar"
        with open(os.path.join(self.root, shard), "rb") as file:
            return np.frombuffer(os.pread(file.fileno(), size, offset), np.uint8)

    def subset(self, indices: np.ndarray) -> ImageSet:
        """Return the images at ``indices`` [m], with unchanged classes."""
        spans = None if self.spans is None else self.spans[indices]
        return replace(self, paths=choose(self.paths, indices), labels=self.labels[indices], spans=spans)


def read_folder(root: str | Path, exclude: str | Path | None = None, num_classes: int | None = None) -> ImageSet:
    """List the images ``root/class/**/name.jpg`` in the order of torchvision's ImageFolder: sorted by class and name.

    If ``root`` contains tar files and no folders, they are read as WebDataset shards (see shards.py). With an
    up-to-date index, the folder is not listed (see image_index.py).

    Args:
        root: Folder of the images.
        exclude: Text file with one image or shard per line, absolute or relative to ``root``, to leave out.
        num_classes: Required number of classes.

    Raises:
        UserError: The folder does not exist, has no class folders or another number of classes, or a class is empty.
    """
    images = _read(os.fspath(root), exclude)
    if num_classes is not None:
        check_class_count(num_classes, len(images.classes), images.root)
    return images


def check_class_count(num_classes: int, found: int, root: str, kind: str = "classes") -> None:
    """Raise ``UserError`` if the folder ``root`` does not have ``num_classes`` classes."""
    if found != num_classes:
        raise UserError(f"space.num_classes: {num_classes}, but {root} has {found} {kind}")


def _read(root: str, exclude: str | Path | None) -> ImageSet:
    if not os.path.isdir(root):
        raise UserError(f"{root or 'data.train and data.val: empty'}: no such folder of images")
    top = list_folder(root)
    folders, classes = top.folders, tuple(map(text_name, top.folders))
    if not folders and shards_of(root):
        return _read_shards(root, exclude)
    if not folders:
        raise UserError(_no_classes(top))
    if indexed := image_index.read(root, folders):
        return _without(ImageSet(root, *indexed, classes), exclude)
    hidden = list(top.hidden)
    found = [list_class(root, name, hidden).names for name in folders]
    warn_hidden(root, hidden)
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(names) for names in found])
    return _without(ImageSet(root, tuple(chain(*found)), labels, classes), exclude)


def _no_classes(top: Folder) -> str:
    """Return the error message for a folder without class folders."""
    found = f" (it has {len(top.images):,} images itself)" if top.images else ""
    return f"{top.path}: no class folders{found}; expected {top.path}/CLASS/*.jpg, one folder per class"


def _without(images: ImageSet, exclude: str | Path | None) -> ImageSet:
    """Return the images of a folder except those in the list ``exclude``, if any."""
    before = np.bincount(images.labels, minlength=len(images.classes))
    excluded = read_list(exclude, images.root, images.paths) if exclude else frozenset()
    if excluded:
        kept = np.fromiter((path not in excluded for path in images.paths), bool, len(images))
        images = images.subset(np.flatnonzero(kept))
    empty = np.flatnonzero(np.bincount(images.labels, minlength=len(images.classes)) == 0)
    for label in empty:
        folder, names = os.path.join(images.root, images.classes[label]), before[label]
        reason = f"all {names} are in {exclude}" if names else f"supported: {', '.join(SUFFIXES)}"
        more = f"; {len(empty)} of {len(images.classes)} classes are empty" if len(empty) > 1 else ""
        raise UserError(f"{folder}: class has no images ({reason}){more}")
    return images


def check_batch_size(images: ImageSet, batch_size: int, section: str) -> None:
    """Raise ``UserError`` if an epoch of a training stage would have no step."""
    if not steps_per_epoch(len(images), 1, batch_size):
        counts = np.bincount(images.labels, minlength=len(images.classes))
        raise UserError(
            f"{section}.batch_size: {batch_size} is more than the {len(images)} training images of {images.root} "
            f"({len(counts)} classes of {counts.min()} to {counts.max()} images)"
        )


def write_index(root: str | Path) -> tuple[Path, int, int]:
    """Write the index of a folder. Return its path, the number of images and of classes.

    Raises:
        UserError: The folder has no class folders, a class is empty, or the folder is not writable.
    """
    root = os.fspath(root)
    if not os.path.isdir(root):
        raise UserError(f"{root}: no such folder of images")
    classes = list_folder(root).folders
    if not classes:
        raise UserError(f"{root}: no class folders; an index is for {root}/CLASS/*.jpg (shards: DALI's wds2idx)")
    count = 0

    def listings() -> Iterator[Listing]:
        nonlocal count
        for name in classes:
            listing = list_class(root, name, [])
            if not listing.names:
                raise UserError(f"{os.path.join(root, name)}: class has no images (supported: {', '.join(SUFFIXES)})")
            count += len(listing.names)
            yield listing

    try:
        path = image_index.write(root, classes, listings())
    except OSError as error:
        raise UserError(
            f"{os.path.join(root, image_index.FILE)}: {error.strerror}; if the data are read-only, make a folder with "
            "links to the class folders"
        ) from None
    return path, count, len(classes)


def _read_shards(root: str, exclude: str | Path | None) -> ImageSet:
    excluded_shards = read_list(exclude, root, shards_of(root), warn=False) if exclude else frozenset()
    paths, labels, spans, classes = read_shards(root, excluded_shards)
    images = ImageSet(root, tuple(paths), labels, tuple(classes), spans)
    excluded = read_list(exclude, root, chain(paths, excluded_shards)) if exclude else frozenset()
    images = images.subset(np.array([i for i, path in enumerate(paths) if path not in excluded], dtype=np.int64))
    for label in np.flatnonzero(np.bincount(images.labels, minlength=len(classes)) == 0):
        raise UserError(f"{root}: class {classes[label]} has no images")
    return images


def list_class(root: str, name: str, hidden: list[str]) -> Listing:
    """List the images of a class, in ImageFolder's order; append the skipped entries to ``hidden``."""
    found = Listing()
    for folder in sorted(walk(os.path.join(root, name)), key=attrgetter("path")):
        relative = os.path.relpath(folder.path, root)
        found.names += [os.path.join(relative, file) for file in folder.images]
        found.folders.append(relative)
        found.times.append(folder.time)
        hidden += [os.path.join(relative, file) for file in folder.hidden]
    return found


def read_list(path: str | Path, root: str, names: Iterable[str], warn: bool = True) -> frozenset[str]:
    """Return the subset of ``names`` in a list file, one per line, absolute or relative to ``root``.

    Args:
        path: The list file.
        root: Folder of the images.
        names: Known names, relative to ``root``.
        warn: Warn if lines match no name.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        lines = os.fsdecode(read_bytes(Path(path), MAX_LIST).removeprefix(codecs.BOM_UTF8)).split("\n")
    except FileNotFoundError as error:
        raise UserError(f"data.exclude: {path}: {error.strerror}") from None
    except UserError as error:
        raise UserError(f"data.exclude: {error}") from None
    cleaned = [line.removesuffix("\r") for line in lines if line.strip()]
    spellings = [list(_spellings(line, root)) for line in cleaned]
    wanted = set(chain(*spellings))
    known = {name for name in names if name in wanted}  # not a set of all names: there may be millions
    matches = [next((name for name in spelled if name in known), None) for spelled in spellings]
    found = {name for name in matches if name is not None}
    unmatched = [line for line, name in zip(cleaned, matches, strict=True) if name is None]
    if unmatched and warn:
        warnings.warn(
            f"data.exclude: {path}: {len(unmatched)} lines match no image of {root}, for example {unmatched[0]!r}",
            stacklevel=2,
        )
    return frozenset(found)


def _spellings(line: str, root: str) -> Iterator[str]:
    """Yield possible names of a line relative to ``root``; both the line and ``root`` may contain symbolic links."""
    if not os.path.isabs(line):
        yield os.path.normpath(line)
        return
    folder, name = os.path.split(line)
    for path in (line, os.path.join(os.path.realpath(folder), name)):
        for base in (os.path.abspath(root), os.path.realpath(root)):
            yield os.path.relpath(path, base)


def write_list(names: Sequence[str], path: str | Path) -> None:
    """Write image names, one per line, for ``read_list``."""
    text = "".join(f"{name}\n" for name in names)
    Path(path).write_text(text, "utf-8", "surrogateescape")


def write_classes(classes: Sequence[str], path: str | Path) -> None:
    """Write the class map ``{"name": label}`` as JSON."""
    text = json.dumps({name: label for label, name in enumerate(classes)}, indent=1, ensure_ascii=False)
    Path(path).write_text(text + "\n", "utf-8", "surrogateescape")


def hold_out(images: ImageSet, per_class: int, seed: int) -> tuple[ImageSet, ImageSet]:
    """Split ``images`` into (train, search): ``per_class`` random images of each class are the search images.

    Raises:
        UserError: A class would have no training images left.
    """
    search = search_mask(images, per_class, seed)
    return images.subset(np.flatnonzero(~search)), images.subset(np.flatnonzero(search))


def search_mask(images: ImageSet, per_class: int, seed: int) -> np.ndarray:
    """Return which of ``images`` are the search images, bool [n]; see ``hold_out``."""
    search = np.zeros(len(images), dtype=bool)
    by_class = np.argsort(images.labels, kind="stable")
    counts = np.bincount(images.labels, minlength=len(images.classes))
    ends = np.cumsum(counts)
    smallest = int(counts.min(initial=per_class + 1))
    if smallest <= per_class:
        small = [f"{images.classes[i]}: {counts[i]}" for i in np.flatnonzero(counts <= per_class)]
        fix = f"use {smallest - 1} or less" if smallest > 1 else "add images, or remove these classes"
        name, _, count = small[0].rpartition(": ")
        others = f" ({len(small)} classes: {', '.join(small[:5])}{', ...' if small[5:] else ''})" if small[1:] else ""
        raise UserError(
            f"data.search_per_class: {per_class} is too large for class {name} of {images.root}, "
            f"which has {count} images; {fix}{others}"
        )
    for label, members in enumerate(np.split(by_class, ends[:-1])):
        rng = np.random.default_rng([seed, HOLD_OUT, label])
        search[rng.choice(members, per_class, replace=False)] = True
    return search


def fingerprint(images: ImageSet) -> str:
    """Return the SHA-256 of classes, names, labels and order. It does not depend on the location of ``root``."""
    digest = hashlib.sha256()
    for names in (images.classes, images.paths):
        for part in joined(names):
            digest.update(part)
        digest.update(b"\0\0")
    digest.update(np.ascontiguousarray(images.labels, dtype="<i8").tobytes())
    if images.spans is not None:
        digest.update(np.ascontiguousarray(images.spans, dtype="<i8").tobytes())
    return digest.hexdigest()
