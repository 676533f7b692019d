"""The exit status and the line of each kind of error."""

from __future__ import annotations

import errno
import os
import re

import pytest
import torch

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
    "error", [ValueError("a bug"), KeyError("x"), ModuleNotFoundError("x", name="vitas_ds.x"), RuntimeError("x")]
)
def test_bugs_keep_their_traceback(error):
    assert outcome(error) is None


def test_a_failed_write_names_file_and_free_space(tmp_path):
    path = tmp_path / "sub" / "file"
    with pytest.raises(OSError) as error, naming(path):
        raise RuntimeError("No space left on device (os error 28)")
    line, status = outcome(error.value)
    assert status == 74 and re.search(rf"^{path}: the disk is full \([\d,.]+ MB free\)", line)


def test_a_real_full_disk():
    with pytest.raises(OSError) as error, naming("/dev/full"), open("/dev/full", "w") as file:
        file.write("x" * 100_000)
    assert outcome(error.value)[1] == 74
