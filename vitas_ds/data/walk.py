"""Walk a folder of images: the only code that lists data folders, for training, scan, index and resize-data.

Hidden entries are skipped and counted. An unreadable folder is an error: without it, the data set would be another one.
Links to folders are followed; a link to a folder above itself ends there.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from vitas_ds.errors import UserError, shorten

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's ImageFolder
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
# Folders of file managers and file systems, besides names that start with a dot, such as AppleDouble's ._cat.jpg
HIDDEN = {
    "__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "system volume information", "lost+found",
    "__pycache__", "thumbs.db", "desktop.ini", "#snapshot",
}  # fmt: skip


@dataclass(frozen=True)
class Folder:
    """Sorted names in one folder: folders, regular files or links to missing ones, and hidden folders and images."""

    path: str
    folders: tuple[str, ...]
    files: tuple[str, ...]
    hidden: tuple[str, ...] = ()
    time: int = 0  # modification time in ns, from before the folder was listed

    @property
    def images(self) -> list[str]:
        """Names of the image files."""
        return [name for name in self.files if name.lower().endswith(SUFFIXES)]


def text_name(name: str) -> str:
    """Return a name that files in UTF-8 can have: the bytes of another encoding are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is not part of the data: it is hidden, or a file manager made it."""
    return name.startswith(".") or name.lower() in HIDDEN


def list_folder(path: str) -> Folder:
    """List one folder.

    Raises:
        UserError: It does not exist or is not readable.
    """
    folders, files, hidden = [], [], []
    try:
        time = os.stat(path).st_mtime_ns
        with os.scandir(path) as entries:
            for entry in entries:
                is_folder = entry.is_dir()
                if is_hidden(entry.name):
                    if is_folder or entry.name.lower().endswith(SUFFIXES):
                        hidden.append(entry.name)
                elif is_folder:
                    folders.append(entry.name)
                elif entry.is_file() or entry.is_symlink():  # not a pipe or device, which would block
                    files.append(entry.name)
    except OSError as error:
        reason = "no such folder of images" if isinstance(error, FileNotFoundError | NotADirectoryError) else ""
        raise UserError(f"{path}: {reason or f'cannot be listed ({error.strerror})'}") from None
    return Folder(path, tuple(sorted(folders)), tuple(sorted(files)), tuple(sorted(hidden)), time)


def walk(top: str) -> Iterator[Folder]:
    """Yield the folder ``top`` and all folders below it, in the order of ``os.walk``.

    Raises:
        UserError: A folder is not readable.
    """
    real = os.path.realpath(top)
    parents = frozenset(_identity(real[:i] or "/") for i, character in enumerate(real) if character == "/")
    stack = [(top, parents)]
    while stack:
        path, above = stack.pop()
        folder = list_folder(path)
        yield folder
        if not folder.folders:
            continue
        info = os.stat(path)
        inside = above | {(info.st_dev, info.st_ino)}
        for name in reversed(folder.folders):
            inner = os.path.join(path, name)
            if not os.path.islink(inner) or _identity(inner) not in inside:
                stack.append((inner, inside))


def warn_hidden(root: str, hidden: list[str]) -> None:
    """Warn about skipped entries, if there are any."""
    if hidden:
        warnings.warn(
            f"{root}: {len(hidden):,} hidden entries are skipped, for example {shorten(hidden[0], 60)}", stacklevel=3
        )


def shards_of(root: str) -> list[str]:
    """Return the names of the tar files in ``root``, sorted.

    Raises:
        UserError: ``root`` is not readable, or its shards are compressed.
    """
    files = list_folder(root).files
    shards = [name for name in files if name.endswith(".tar")]
    packed = [name for name in files if name.lower().endswith(COMPRESSED)]
    if packed and not shards:
        raise UserError(f"{os.path.join(root, packed[0])}: compressed shards cannot be read at random; unpack them to "
                        ".tar files (gunzip)")  # fmt: skip
    return shards


def _identity(path: str) -> tuple[int, int]:
    info = os.stat(path)
    return info.st_dev, info.st_ino
