"""The walk of an image folder: hidden entries, loops, special files and unreadable folders.

Reference: folders built by hand.
"""

from __future__ import annotations

import io
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from vitas_ds.__main__ import main
from vitas_ds.config import Data
from vitas_ds.data.scan import scan
from vitas_ds.data.shards import read_shards
from vitas_ds.data.sources import check_batch_size, hold_out, read_folder
from vitas_ds.data.walk import list_folder, shards_of, walk
from vitas_ds.errors import UserError

HIDDEN = (".ipynb_checkpoints", "@eaDir", "__MACOSX", ".thumbs", "lost+found", "$RECYCLE.BIN")


def jpeg(size=(8, 8)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b/deep", *HIDDEN):
        (tmp_path / "data" / name).mkdir(parents=True)
        for file in ("1.jpg", "._1.jpg", "2.JPG", "note.txt"):
            (tmp_path / "data" / name / file).write_bytes(jpeg())
    return tmp_path / "data"


EXPECTED = ["a/1.jpg", "a/2.JPG", "b/deep/1.jpg", "b/deep/2.JPG"]


def test_hidden_entries_are_skipped_and_counted_everywhere(folder, capsys):
    with pytest.warns(UserWarning, match="8 hidden entries are skipped, for example"):
        images = read_folder(folder)
    assert (list(images.paths), images.classes) == (EXPECTED, ("a", "b"))
    with pytest.warns(UserWarning, match="8 hidden entries"):
        assert scan(folder, 1) == []
    assert main(["index", str(folder)]) == 0
    assert "4 images of 2 classes" in capsys.readouterr().out
    assert list(read_folder(folder).paths) == EXPECTED


def test_loops_end_and_links_are_followed(folder):
    (folder / "a" / "loop").symlink_to(folder)
    (folder / "a" / "up").symlink_to("..")
    (folder / "b" / "other").symlink_to(folder / "b" / "deep")
    assert [os.path.relpath(f.path, folder) for f in walk(str(folder / "a"))] == ["a"]
    assert [os.path.relpath(f.path, folder) for f in walk(str(folder / "b"))] == ["b", "b/deep", "b/other"]


def test_broken_links_are_images_and_pipes_are_not(folder):
    os.mkfifo(folder / "a" / "pipe.jpg")
    (folder / "a" / "gone.jpg").symlink_to("/no/where.jpg")
    assert list_folder(str(folder / "a")).images == ["1.jpg", "2.JPG", "gone.jpg"]
    assert [os.path.basename(path) for path, _ in scan(folder, 1)] == ["gone.jpg"]


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_unreadable_folders_are_errors(folder):
    (folder / "b" / "deep").chmod(0)
    for call in (read_folder, scan):
        with pytest.raises(UserError, match=r"b/deep: cannot be listed \(Permission denied\)"):
            call(folder)


def test_compressed_shards_and_apple_double(tmp_path):
    (tmp_path / "x.tar.gz").touch()
    with pytest.raises(UserError, match=r"x\.tar\.gz: compressed shards"):
        shards_of(str(tmp_path))
    (tmp_path / "._s.tar").write_bytes(b"x")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("__MACOSX/._1.jpg", "._1.jpg", "./1.jpg", "./1.cls", "._1.cls"):
            content = b"0" if name.endswith("cls") else jpeg()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert read_shards(str(tmp_path))[0] == ["s.tar/./1.jpg"]


def test_scan_refuses_the_sizes_that_training_refuses(tmp_path):
    top = tmp_path / "a"
    top.mkdir()
    for name, size in (
        ("ok.png", (800, 8)),
        ("long.png", (808, 8)),
        ("long.jpg", (1, 101)),
        ("bomb.tif", (16385, 200)),
    ):
        Image.new("L", size).save(top / name)
    Image.new("CMYK", (9, 9)).save(top / "cmyk.tif")
    found = {os.path.basename(path): reason for path, reason in scan(tmp_path, 1)}
    assert found == {
        "long.png": "808 x 8 pixels; one side is more than 100 times the other",
        "long.jpg": "1 x 101 pixels; one side is more than 100 times the other",
        "bomb.tif": "16385 x 200 pixels; a side has at most 16,384",
    }
    from vitas_ds.data.loader import decode_all
    from vitas_ds.distributed.comm import Ranks

    images, ranks = read_folder(tmp_path), Ranks(0, 1, 0, "cpu")
    for i, path in enumerate(images.paths):
        one = images.subset(np.array([i]))
        if os.path.basename(path) in found:
            with pytest.raises(UserError, match=r"pixels; |cannot be read as an image"):
                decode_all(one, Data(resize=8, threads=1), 8, ranks)
        else:
            assert decode_all(one, Data(resize=8, threads=1), 8, ranks).shape == (1, 3, 8, 8)


def test_small_classes_are_reported_with_counts(folder):
    for i in range(9):
        (folder / "b" / f"{i}.jpg").write_bytes(jpeg())
    (folder / "c").mkdir()
    (folder / "c" / "1.jpg").write_bytes(jpeg())
    images = read_folder(folder)
    with pytest.raises(UserError, match=r"class a .*, which has 2 images; .* \(2 classes: a: 2, c: 1\)"):
        hold_out(images, 5, 0)
    with pytest.raises(UserError, match=r"supernet.batch_size: 64 is more than the 14 .*3 classes of 1 to 11 images"):
        check_batch_size(images, 64, "supernet")
    check_batch_size(images, 14, "supernet")
