"""Write CIFAR-10 as an ImageFolder of JPEGs: 50,000 training and 10,000 test images of 32 x 32 pixels.

    python launch/make_cifar10.py [data/cifar10]   ->   data/cifar10/{train,test}/{airplane,...,truck}/NNNN.jpg

Downloads cifar-10-python.tar.gz (170 MB) next to the folder, checks it, and deletes it at the end; a second start
resumes the download. ``--archive FILE`` reads a local copy instead: that file, or a tar of such an ImageFolder. The
folder is written under a temporary name and renamed, so it is complete or absent. Needs numpy and pillow.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import pickle
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
SIDE = 32  # pixels
ON_DISK = 4096  # bytes that a file of this size takes
TIMEOUT = 60  # seconds without an answer
Image = tuple[str, str, bytes]  # part, class, JPEG


@dataclass(frozen=True)
class Source:
    """The public archive: address, MD5, and images per class of each part."""

    url: str = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    md5: str = "c58f30108f718f92721af3b95e74349a"
    per_class: dict[str, int] = field(default_factory=lambda: {"train": 5000, "test": 1000})


class ArrayUnpickler(pickle.Unpickler):
    """Reads numpy arrays, numbers, texts, lists and dictionaries. Anything else is an error, so no code runs."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the functions that rebuild an array."""
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.empty(0).__reduce__()[0]  # its module depends on the version of numpy
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"refuses {module}.{name}")


def batch_images(file: io.BufferedIOBase | Any, part: str) -> Iterator[Image]:
    """Yield the images of a batch of the public archive as JPEGs."""
    from PIL import Image as Pillow

    try:
        batch = ArrayUnpickler(file, encoding="bytes").load()
        pixels = np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        names = [CLASSES[label] for label in batch[b"labels"]]
    except (pickle.UnpicklingError, EOFError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"not a batch of CIFAR-10: {error}") from None
    for image, name in zip(pixels, names, strict=True):
        jpeg = io.BytesIO()
        Pillow.fromarray(image).save(jpeg, "JPEG", quality=95)
        yield part, name, jpeg.getvalue()


def public_images(tar: tarfile.TarFile) -> Iterator[Image]:
    """Yield the images of the public archive."""
    members = {PurePosixPath(member.name).name: member for member in tar if member.isfile()}
    for part, batches in BATCHES.items():
        for name in batches:
            if name not in members:
                raise ValueError(f"{name} is missing")
            yield from batch_images(tar.extractfile(members[name]), part)


def folder_images(tar: tarfile.TarFile) -> Iterator[Image]:
    """Yield the images of a tar of an ImageFolder: ``.../PART/CLASS/*.jpg``. Other files are ignored."""
    from PIL import Image as Pillow

    for member in tar:
        part, name, file = ("", "", *PurePosixPath(member.name).parts)[-3:]
        if not member.isfile() or part not in BATCHES or name not in CLASSES or not file.endswith(".jpg"):
            continue
        jpeg = tar.extractfile(member).read()  # type: ignore[union-attr]  # a file has contents
        try:
            with Pillow.open(io.BytesIO(jpeg)) as image:
                image.load()
                size = image.size
        except OSError:
            raise ValueError(f"{member.name} is not a readable image") from None
        if size != (SIDE, SIDE):
            raise ValueError(f"{member.name} is not {SIDE} x {SIDE} pixels")
        yield part, name, jpeg


def write(root: Path, images: Iterator[Image], per_class: dict[str, int]) -> None:
    """Write all images below ``root``.

    Raises:
        ValueError: A class does not have its number of images.
    """
    counts = {(part, name): 0 for part in per_class for name in CLASSES}
    for part, name in counts:
        (root / part / name).mkdir(parents=True)
    for part, name, jpeg in images:
        (root / part / name / f"{counts[part, name]:04}.jpg").write_bytes(jpeg)
        counts[part, name] += 1
    for (part, name), count in counts.items():
        if count != per_class[part]:
            raise ValueError(f"{part}/{name} has {count:,} images instead of {per_class[part]:,}")


def write_archive(root: Path, archive: Path, source: Source) -> None:
    """Write the images of an archive below ``root``.

    Raises:
        ValueError: The archive is neither the public one nor a tar of its images.
    """
    if not archive.is_file():
        raise ValueError(f"{archive}: no such file")
    found = md5(archive)
    try:
        with tarfile.open(archive) as tar:
            if found != source.md5 and not any(PurePosixPath(member.name).suffix == ".jpg" for member in tar):
                raise ValueError(f"its MD5 is {found}, expected {source.md5}")
            write(root, public_images(tar) if found == source.md5 else folder_images(tar), source.per_class)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        reason = str(error).partition("\n")[0].rstrip(": ")
        raise ValueError(f"{archive}: damaged, or not an archive of CIFAR-10: {reason}") from None
    except ValueError as error:
        raise ValueError(f"{archive}: {error}") from None


def md5(path: Path) -> str:
    """Return the MD5 of a file, the checksum that the authors publish."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def download(source: Source, path: Path) -> None:
    """Download the archive to ``path``, from the end of what is there.

    Raises:
        ValueError: No answer, the connection broke, or the checksum is wrong.
    """
    start = path.stat().st_size if path.exists() else 0
    try:
        fetch(source.url, path, start)
    except (OSError, HTTPException) as error:
        if isinstance(error, OSError) and not isinstance(error, urllib.error.URLError | TimeoutError | ConnectionError):
            raise  # of the disk
        reason = getattr(error, "reason", "") or error
        local = "start again to resume, or pass a local copy as --archive FILE"
        raise ValueError(f"{source.url}: {reason}; {local}") from None
    if (found := md5(path)) != source.md5:
        path.unlink()
        raise ValueError(f"{source.url}: the MD5 is {found}, expected {source.md5}; start again")


def fetch(url: str, path: Path, start: int) -> None:
    """Append the bytes of ``url`` from ``start`` on to ``path``, or replace it if the server cannot resume."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left
            return
        raise
    with answer, path.open("ab" if answer.status == 206 else "wb") as file:
        missing = int(answer.headers.get("Content-Length", 0))
        while block := answer.read(1 << 20):
            missing -= file.write(block)
    if missing > 0:
        raise ConnectionError(f"the connection broke, {missing:,} bytes are missing")


def is_complete(root: Path, per_class: dict[str, int]) -> bool:
    """Return whether ``root`` has all images."""
    return all(
        len(list((root / part / name).glob("*.jpg"))) == count for part, count in per_class.items() for name in CLASSES
    )


def make(root: Path, archive: Path | None = None, source: Source | None = None) -> bool:
    """Create ``root`` unless it is complete. Return whether it was created.

    Raises:
        ValueError: The target has other files, or the archive is not available or not the right one.
    """
    source = source or Source()
    if is_complete(root, source.per_class):
        return False
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"{root}: not empty, and not all of CIFAR-10; choose another folder or delete it")
    aside = root.with_name(f".{root.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    loaded = root.with_name(".cifar-10-python.tar.gz.partial")
    try:
        need = ON_DISK * len(CLASSES) * sum(source.per_class.values())
        if (free := shutil.disk_usage(aside).free) < need:
            raise ValueError(f"{root}: needs {need / 1e6:.0f} MB of disk, {free / 1e6:.0f} MB are free")
        if archive is None:
            print(f"cifar10: downloading {source.url}", flush=True)
            download(source, loaded)
        write_archive(aside, archive or loaded, source)
        aside.rename(root)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    if archive is None:
        loaded.unlink()
    return True


def main(argv: list[str] | None = None, source: Source | None = None) -> int:
    """Run the command line. The exit status is 2, with a one-line message, if the images cannot be written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=Path, default=Path("data/cifar10"), help="folder to write")
    parser.add_argument("--archive", type=Path, metavar="FILE", help="local copy of the archive, or tar of the folder")
    args = parser.parse_args(argv)
    try:
        print(f"cifar10: {'wrote' if make(args.root, args.archive, source) else 'already in'} {args.root}")
    except ImportError as error:
        print(f"make_cifar10.py: {error}; pip install pillow", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"make_cifar10.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
