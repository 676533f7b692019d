"""``vitas scan``: the list, and what it refuses before it reads an image."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitas_ds.__main__ import main


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
