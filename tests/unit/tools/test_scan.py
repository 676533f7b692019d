"""``vitas scan``: the list, and what it refuses before it reads an image."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.photos import photo_crop
from vitas_ds.__main__ import main
from vitas_ds.data.scan import check


def test_a_jpeg_cut_at_any_byte_is_named() -> None:
    content = io.BytesIO()
    photo_crop(np.random.default_rng(0), 24, 16).save(content, "JPEG")
    for end in range(1, len(content.getvalue())):
        assert check(content.getvalue()[:end]) is not None, end
    assert check(content.getvalue()) is None


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with one unreadable image, whose name would clear the terminal."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a\x1b[2J.jpg").touch()
    return tmp_path / "data"


def test_the_list_and_its_folder_are_written(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "folder" / "list.txt"
    assert main(["scan", str(data), "--threads", "1", "--write", str(out)]) == 1
    assert capsys.readouterr().out == f"{data}/a\\x1b[2J.jpg: empty\n"
    assert out.read_text() == f"{data}/a\x1b[2J.jpg\n"


def test_a_list_that_cannot_be_written_is_refused_before_the_scan(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vitas_ds.tools.scan.scan", lambda *_: pytest.fail("scanned"))
    (tmp_path / "file").touch()
    for out, problem in (("file/list", "a file is in the place of its folder"), ("data", "is a folder; give a file")):
        assert main(["scan", str(data), "--write", str(tmp_path / out)]) == 2
        assert capsys.readouterr().err == f"vitas scan: --write {tmp_path / out}: {problem}\n"
