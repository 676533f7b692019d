"""Atomic writes: a reader sees the old file or the new one.

References: the file before the write, and Python's json module.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from vitas_ds.errors import UserError
from vitas_ds.run.files import append_line, read_json, sync_folder, to_json, write_json, write_tensors, write_text


def test_to_json_is_strict() -> None:
    value = {"a": np.arange(3), "b": (1, float("inf")), "c": Path("x/y"), 3: None}
    assert json.loads(to_json(value)) == {"a": [0, 1, 2], "b": [1, None], "c": "x/y", "3": None}


def test_read_json(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.json"
    assert read_json(path, {}) == {}
    write_json(path, {"a": 1})
    assert read_json(path, {}) == {"a": 1}
    path.write_text("[1]")
    assert read_json(path, None) == [1]
    with pytest.raises(UserError, match="not a JSON object"):
        read_json(path, {})
    path.write_text("{")
    with pytest.raises(UserError, match="not a JSON file"):
        read_json(path, {})


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "x", "\ud800")
    with pytest.raises(ValueError):
        write_tensors(tmp_path / "y", {"a": torch.zeros(2, 3).t()})  # not contiguous
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "write", ["r.write_json(path, {'n': 1})", "import torch; r.write_tensors(path, {'n': torch.zeros(1)})"]
)
def test_a_killed_writer_leaves_the_old_file(tmp_path: Path, write: str) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"n": 0})
    code = (
        "import os, sys; from pathlib import Path; import vitas_ds.run.files as r\n"
        "os.replace = lambda *_: os._exit(9)\n"
        f"path = Path(sys.argv[1]); {write}"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=os.environ | {"PYTHONPATH": os.getcwd()})
    assert done.returncode == 9
    assert json.loads(path.read_text()) == {"n": 0}


def test_write_tensors(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "weights.safetensors"
    write_tensors(path, {"a": torch.arange(4.0)}, {"format": "pt"})
    assert load_file(path)["a"].tolist() == [0, 1, 2, 3]
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode  # as the umask says, not 0600
    assert list(path.parent.iterdir()) == [path]


def test_append_line(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.jsonl"
    append_line(path, "one")
    append_line(path, "two")
    assert path.read_text() == "one\ntwo\n"
    path.write_text("one\ntw")
    append_line(path, "three")
    assert path.read_text() == "one\ntw\nthree\n"
    sync_folder(path.parent)


@pytest.mark.parametrize("exists", [True, False])
def test_lines_do_not_follow_a_link(tmp_path: Path, exists: bool) -> None:
    outside, path = tmp_path / "outside", tmp_path / "run" / "x.jsonl"
    path.parent.mkdir()
    if exists:
        outside.write_text("mine\n")
    path.symlink_to(outside)
    with pytest.raises(UserError, match=rf"^{path}: a symbolic link; put the file itself in its place$"):
        append_line(path, "one")
    assert (outside.read_text() == "mine\n") if exists else not outside.exists()


def test_a_replaced_file_does_not_follow_links(tmp_path: Path) -> None:
    outside, path = tmp_path / "outside", tmp_path / "run" / "x.json"
    outside.write_text("mine")
    path.parent.mkdir()
    for name in (path.name, f".{path.name}.{os.getpid()}.tmp"):
        (path.parent / name).symlink_to(outside)
    write_json(path, {"n": 1})
    assert outside.read_text() == "mine" and json.loads(path.read_text()) == {"n": 1}
    assert list(path.parent.iterdir()) == [path] and not path.is_symlink()


def test_import_without_torch() -> None:
    code = "import sys; import vitas_ds.run.files, vitas_ds.run.run_dir; assert 'torch' not in sys.modules"
    env = os.environ | {"PYTHONPATH": os.getcwd()}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=env).returncode == 0
