"""Records of the contents of images.

Reference: folders changed by hand.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from vitas_ds.data import contents
from vitas_ds.data.sources import ImageSet, fingerprint, read_folder
from vitas_ds.errors import UserError
from vitas_ds.run.files import write_text
from vitas_ds.run.run_dir import RunDir
from vitas_ds.stages.inputs import difference, version_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 20 files, of 10 to 48 bytes, none of which is an image."""
    for label, name in enumerate(("cat", "dog\udcff")):
        (tmp_path / "a" / name).mkdir(parents=True)
        for i in range(20):
            (tmp_path / "a" / name / f"{i:02} \n.jpg").write_bytes(bytes([label, i] * (5 + i)))
    return tmp_path / "a"


def record_of(images: ImageSet, path: Path) -> contents.Record:
    """Return the record after it was written and read."""
    write_text(path, contents.to_text(contents.take(images)))
    return contents.read(path)


def changes(record: contents.Record, folder: Path) -> str:
    return contents.difference(record, read_folder(folder))


def later(*paths: Path) -> None:
    for path in paths:
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))


def test_a_copy_is_equal_and_a_changed_file_is_named(folder: Path, tmp_path: Path) -> None:
    images = read_folder(folder)
    record, before = record_of(images, tmp_path / "r.txt"), contents.digest(images)
    assert record == contents.take(images) and changes(record, folder) == ""
    shutil.copytree(folder, tmp_path / "b", copy_function=shutil.copy)
    later(*(tmp_path / "b").rglob("*.jpg"))
    assert changes(record, tmp_path / "b") == "" and contents.digest(read_folder(tmp_path / "b")) == before
    files = sorted((folder / "cat").iterdir())
    later(files[5])  # touched
    assert changes(record, folder) == ""
    files[3].write_bytes(files[3].read_bytes()[::-1])  # as large as before
    later(files[3])
    assert changes(record, folder) == "1 file differs, e.g. cat/03 .jpg"
    files[4].write_bytes(b"x")
    assert changes(record, folder).startswith("2 files differ, e.g. cat/03")
    assert contents.digest(read_folder(folder)) != before


def test_new_and_missing_files(folder: Path, tmp_path: Path) -> None:
    record = record_of(read_folder(folder), tmp_path / "r.txt")
    new = folder / "cat" / "new.jpg"
    new.touch()
    assert changes(record, folder) == "41 images instead of 40, e.g. cat/new.jpg is new"
    new.unlink()
    (folder / "cat" / "00 \n.jpg").unlink()
    assert changes(record, folder).startswith("39 images instead of 40, e.g. cat/00")
    (folder / "cat" / "z.jpg").touch()
    assert changes(record, folder) == "1 of 40 images have other names or classes, e.g. cat/z.jpg is new"


def test_without_digests_a_copy_is_equal_and_a_newer_file_is_not(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "READ", 40)
    record = record_of(read_folder(folder), tmp_path / "r.txt")
    known = [name for name, (_, digest) in record.files.items() if digest != contents.NONE]
    assert 1 <= len(known) <= 4
    files = sorted(folder.rglob("*.jpg"))
    unknown = next(path for path in files if str(path.relative_to(folder)) not in known)
    later(unknown)
    assert changes(record, folder).startswith("1 file differs")
    later(*(path for path in files if path != unknown))
    assert changes(record, folder) == ""


def test_of_many_small_files_some_are_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "READ_FILES", 3)
    record = record_of(read_folder(folder), tmp_path / "r.txt")
    known = [name for name, (_, digest) in record.files.items() if digest != contents.NONE]
    assert len(record.files) == 40 and len(known) == 3
    monkeypatch.setattr(contents, "READ_FILES", 40)  # an earlier version has read more, or fewer
    assert changes(record, folder) == ""
    later(folder / known[0])
    assert changes(record, folder) == ""


def test_of_a_large_set_some_files_are_compared(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "MOST", 10)
    record = record_of(read_folder(folder), tmp_path / "r.txt")
    assert record.every == 4 and 3 <= len(record.files) <= 20
    for path in folder.rglob("*.jpg"):
        path.write_bytes(b"other")
    assert changes(record, folder).startswith(f"at least {len(record.files)} files differ")


def test_damaged_record(tmp_path: Path) -> None:
    for text in ("", "{}\n", "x\n", '{"root": "a"}\n1 2\n'):
        (tmp_path / "r.txt").write_text(text)
        with pytest.raises(UserError, match="not a record of images"):
            contents.read(tmp_path / "r.txt")


def test_a_changed_record(folder: Path, tmp_path: Path) -> None:
    """A line is missing, a number is another one, a key of the first line is gone: the message names the file."""
    run, images = RunDir(tmp_path / "run"), read_folder(folder)
    version = version_of(run, "train", images)
    path = run.contents / "train-1.txt"
    lines = path.read_text(errors="surrogateescape").splitlines(keepends=True)
    other_size = f"1{lines[1]}"
    other_key = lines[0].replace("sha256", "sha255")
    for left in (lines[:-1], [*lines[:3], *lines[4:]], lines[:1], [lines[0], other_size, *lines[2:]],
                 [other_key, *lines[1:]]):  # fmt: skip
        path.write_text("".join(left), errors="surrogateescape")
        with pytest.raises(UserError, match=r"train-1\.txt: not a record of images as it was written; restore it"):
            difference(run, version, images)


def test_random_images_have_no_files(folder: Path) -> None:
    images = replace(read_folder(folder), seed=3, root="/nonexistent")
    assert contents.digest(images) == fingerprint(images) == contents.digest(replace(images, root="/elsewhere"))
