"""The exit status and the line of each kind of error."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import subprocess
import sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec

import pytest
import torch

from tests.helpers.paths import ROOT
from vitas_ds.errors import Preempted, RankLost, SaveFailed, UserError
from vitas_ds.errors.exits import naming, outcome


@pytest.mark.parametrize(
    ("error", "line", "status"),
    [
        (UserError("a: b"), "a: b", 2),
        (Preempted("saved"), "saved", 75),
        (RankLost(), "", 69),
        (SaveFailed("checkpoint"), "checkpoint; start it again to resume", 74),
        (KeyboardInterrupt(), "interrupted; start it again to resume", 130),
        (ModuleNotFoundError("x", name="nowhere.x"), "nowhere.x is not installed; python -m vitas_ds doctor", 2),
        (
            ImportError("libfoo.so.1: cannot open shared object file: No such file or directory", name="onnxruntime"),
            "libfoo.so.1 cannot be loaded (cannot open shared object file: No such file or directory); vitas doctor",
            2,
        ),
        (
            OSError("/lib/libtorch_cuda.so: failed to map segment from shared object"),
            "/lib/libtorch_cuda.so cannot be loaded (failed to map segment from shared object); vitas doctor checks",
            2,
        ),
        (OSError(errno.ENOSPC, "", "/data/a"), "/data/a: the disk is full (", 74),
        (OSError(errno.EDQUOT, "", "/data/a"), "/data/a: the disk quota is used up (", 74),
        (OSError(errno.EROFS, "", "/data/a"), "/data/a: the disk is read-only (", 74),
        (OSError(errno.EFBIG, "", "/data/a"), "/data/a: the file is too large (", 74),
        (OSError(errno.EACCES, "", "/nowhere/a"), "/nowhere/a: no permission to write", 74),
        (OSError(errno.ENAMETOOLONG, "", "a"), "a: the name is too long", 2),
        (OSError(errno.EISDIR, "", "a"), "a: a folder is in the place of a file", 2),
        (RuntimeError("I/O error: No space left on device (os error 28)"), f"{os.getcwd()}: the disk is full", 74),
        (MemoryError(), "not enough memory", 2),
        (torch.OutOfMemoryError("CUDA out of memory"), "not enough memory", 2),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory", 2),
    ],
)
def test_outcomes(error, line, status):
    found = outcome(error)
    assert found is not None
    assert found[0].startswith(line) and found[1] == status


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        KeyError("x"),
        ModuleNotFoundError("x", name="vitas_ds.x"),
        RuntimeError("x"),
        ImportError("cannot import name 'x' from 'vitas_ds.run'", name="vitas_ds.run"),
        ImportError("a bug"),
    ],
)
def test_bugs_keep_their_traceback(error):
    assert outcome(error) is None


def test_a_library_that_the_loader_refuses(tmp_path):
    """As an extension of Python and with ctypes; the message is that of the dynamic loader."""
    library = tmp_path / "broken.so"
    library.write_bytes(bytes(100))
    with pytest.raises(ImportError) as error:
        ExtensionFileLoader("broken", str(library)).create_module(ModuleSpec("broken", None, origin=str(library)))
    expected = f"{library} cannot be loaded (invalid ELF header); vitas doctor checks each library", 2
    assert outcome(error.value) == expected
    with pytest.raises(OSError) as other:
        ctypes.CDLL(str(library))
    assert outcome(other.value) == expected


def test_a_machine_without_a_writable_folder(tmp_path):
    """Of tempfile and of Matplotlib, whose own lines about the home folder do not appear beside ours."""
    code = (
        "import os, sys, tempfile; from vitas_ds.__main__ import main\n"
        "tempfile._candidate_tempdir_list = lambda: ['/proc/1']\n"  # the others of this machine are writable
        "sys.exit(main(['cost', 'vitas-a', '--plot', sys.argv[1]]))"
    )
    environment = {**os.environ, "HOME": "/proc/1", "PYTHONPATH": str(ROOT)}
    for name in ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    command = [sys.executable, "-c", code, str(tmp_path / "plot.png")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    line = "vitas cost: Matplotlib needs a writable folder; set MPLCONFIGDIR or TMPDIR to one\n"
    assert (done.returncode, done.stderr) == (74, line)
    missing = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")
    assert outcome(missing) == ("no writable folder for temporary files; set TMPDIR to one", 74)


def test_a_failed_write_names_file_and_free_space(tmp_path):
    path = tmp_path / "sub" / "file"
    with pytest.raises(OSError) as error, naming(path):
        raise RuntimeError("No space left on device (os error 28)")
    line, status = outcome(error.value)
    assert status == 74 and re.search(rf"^{path}: the disk is full \([\d,.]+ MB free\)", line)


def test_standard_output_on_a_full_disk(monkeypatch):
    for text in ("x", "x" * 100_000):  # the longer one does not stay in the buffer
        with open("/dev/full", "w") as file, pytest.raises(OSError) as error:
            monkeypatch.setattr("sys.stdout", file)
            try:
                print(text, flush=True)
            finally:
                monkeypatch.undo()
                os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
        line, status = outcome(error.value)
        assert status == 74 and line.startswith("standard output: the disk is full; make space")


def test_a_real_full_disk():
    with pytest.raises(OSError) as error, naming("/dev/full"), open("/dev/full", "w") as file:
        file.write("x" * 100_000)
    assert outcome(error.value)[1] == 74
