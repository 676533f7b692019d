"""Exit status and error line of a command, for every error except bugs of this project."""

from __future__ import annotations

import errno
import os
import re
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitas_ds.errors import Preempted, RankLost, SaveFailed, UserError, shorten

DISK = {
    errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EFBIG: "the file is too large",
    errno.EROFS: "the disk is read-only", errno.EIO: "the disk reports an error",
}  # fmt: skip
PLACES = {
    errno.EACCES: "no permission", errno.EPERM: "no permission", errno.ENOENT: "no such file or folder",
    errno.ENOTDIR: "a file is in the place of a folder", errno.EISDIR: "a folder is in the place of a file",
    errno.ENAMETOOLONG: "the name is too long", errno.ELOOP: "symbolic links form a loop", errno.ESTALE: "stale handle",
    errno.EEXIST: "exists already", errno.ENOTEMPTY: "the folder is not empty", errno.EBUSY: "in use",
    errno.EMFILE: "too many open files; see ulimit -n", errno.ENFILE: "too many open files",
}  # fmt: skip
LIBRARY = re.compile(r"(\S+\.so[\w.]*): (.+)")  # message of the dynamic loader: the library and the reason
IMPORT = re.compile(r"(?:from|import) (\w+)")
RESUME = "start it again to resume"
STATUS = {UserError: 2, Preempted: 75, SaveFailed: SaveFailed.STATUS, KeyboardInterrupt: 130}


def outcome(error: BaseException) -> tuple[str, int] | None:
    """Return the line to print (empty if it has been printed) and the exit status; None if the error is a bug."""
    if isinstance(error, RankLost):
        return "", RankLost.STATUS
    for kind, status in STATUS.items():
        if isinstance(error, kind):
            line = "interrupted" if kind is KeyboardInterrupt else str(error)
            return line if status in (2, 75) else f"{line}; {RESUME}", status
    if isinstance(error, ModuleNotFoundError):
        ours = (error.name or "").partition(".")[0] == "vitas_ds"
        return None if ours else (f"{error.name} is not installed; python -m vitas_ds doctor lists what is missing", 2)
    kinds = (_of_memory, _of_a_library, _of_temporary_files, _of_the_disk, _of_an_import)
    return next(filter(None, (kind(error) for kind in kinds)), None)


def _of_a_library(error: BaseException) -> tuple[str, int] | None:
    """Return the outcome of a shared library that cannot be loaded: an ``ImportError``, or an ``OSError`` of ctypes."""
    for inner in _chain(error) if isinstance(error, ImportError | OSError) else ():
        found = LIBRARY.match(str(inner))
        if found and (isinstance(inner, ImportError) or (isinstance(inner, OSError) and not inner.errno)):
            return f"{found[1]} cannot be loaded ({found[2]}); vitas doctor checks each library", 2
    return None


def _of_an_import(error: BaseException) -> tuple[str, int] | None:
    """Return the outcome of any error while a package of another project is imported, as for a wrong TORCH_LOGS."""
    frames = _own_frames(error)
    found = IMPORT.match(frames[-1].line or "") if frames else None
    if found is None or found[1] == "vitas_ds":
        return None
    return f"{found[1]} cannot be imported ({shorten(str(error), 150)}); vitas doctor checks each library", 2


def _own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the lines of this package on the way to an error."""
    package = str(Path(__file__).parents[1])
    return [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(package + os.sep)]


def _of_temporary_files(error: BaseException) -> tuple[str, int] | None:
    """Return the outcome of a machine without a writable folder for temporary files. Matplotlib wraps the error."""
    texts = [str(inner) for inner in _chain(error)]
    if not any("No usable temporary directory" in text for text in texts):
        return None
    if any(text.startswith("Matplotlib requires access") for text in texts):
        return "Matplotlib needs a writable folder; set MPLCONFIGDIR or TMPDIR to one", 74
    return "no writable folder for temporary files; set TMPDIR to one", 74


def _of_memory(error: BaseException) -> tuple[str, int] | None:
    """Return the outcome of a failed allocation in Python, in torch on a GPU, or in torch on the CPU."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names.isdisjoint({"MemoryError", "OutOfMemoryError"}) and "can't allocate memory" not in str(error):
        return None
    frames = _own_frames(error)
    place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"not enough memory{place}: use a smaller batch size, or fewer processes per machine; then {RESUME}", 2


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Add the file to errors of the disk inside the block: a failed write does not know its file."""
    try:
        yield
    except Exception as error:
        code = _code(error)
        if code in DISK and not _file(error) and not isinstance(error, SaveFailed):
            raise OSError(code, os.strerror(code), os.fspath(path)) from error
        raise


def disk_problem(error: BaseException) -> str:
    """Describe an error of the disk with its file and the free space; give the text of any other error."""
    code = _code(error)
    if code not in DISK:
        return str(error)
    path = _file(error) or os.getcwd()
    return f"{path}: {DISK[code]} ({_free(path)})"


def _of_the_disk(error: BaseException) -> tuple[str, int] | None:
    """Return the outcome of an error of the operating system, also if another library has wrapped it."""
    code = _code(error)
    if code in DISK:
        path = _file(error)
        if not path and _is_of_output(error):
            return f"standard output: {DISK[code]}; make space or choose another disk, then {RESUME}", 74
        return f"{disk_problem(error)}; make space or choose another disk, then {RESUME}", 74
    if code in PLACES and (path := _file(error)):
        reading = os.path.exists(path) and not os.access(path, os.R_OK)
        denied = code in (errno.EACCES, errno.EPERM) and not reading
        return f"{path}: {PLACES[code]}{' to write' if denied else ''}", 74 if denied else 2
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _code(error: BaseException) -> int | None:
    """Return the error number of the operating system; libraries in other languages only have it in their text."""
    for inner in _chain(error):
        if isinstance(inner, OSError) and inner.errno:
            return inner.errno
        text = str(inner)
        for code in DISK:
            if os.strerror(code) in text:
                return code
        if "PytorchStreamWriter failed" in text or "file write failed" in text:  # torch.save does not know the reason
            return errno.ENOSPC
    return None


def _file(error: BaseException) -> str:
    names = [inner.filename for inner in _chain(error) if isinstance(inner, OSError)]
    return next((os.fsdecode(name) for name in names if isinstance(name, str | bytes | os.PathLike)), "")


def _is_of_output(error: BaseException) -> bool:
    """Return whether stdout could not be written: the error does not know its file, but the line of code does."""
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, OSError) and bool(frames) and (frames[-1].line or "").startswith(("print(", "sys.stdout."))


def _free(path: str) -> str:
    """Return the free space next to a file, as text."""
    folder = Path(path).absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB free"
    except OSError:
        return "free space unknown"
