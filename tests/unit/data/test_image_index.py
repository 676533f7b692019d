"""An indexed folder equals the listed one, and an outdated index is not used."""

import os
import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitas_ds.data import image_index, sources
from vitas_ds.data.image_index import Listing
from vitas_ds.data.names import Names, choose, joined
from vitas_ds.data.sources import ImageSet
from vitas_ds.errors import UserError

FILES = (
    "a/x.jpg",
    "a/deep/1.PNG",
    "a/notes.txt",
    "b/é ü.jpg",
    "b/2.jpg",
    os.fsdecode(b"b/\xff.jpg"),
    "c/d/e/3.png",
)


@pytest.fixture
def folder(tmp_path):
    for name in FILES:
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).touch()
    (tmp_path / "set" / "b" / "empty").mkdir()
    return tmp_path / "set"


def equal(a, b):
    return (tuple(a.paths), a.labels.tolist(), a.classes) == (tuple(b.paths), b.labels.tolist(), b.classes)


def quietly(read, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read(*args)


def test_an_indexed_folder_equals_the_listed_one(folder, tmp_path):
    listed = sources.read_folder(folder)
    assert sources.write_index(folder) == (folder / "index.vitas", 6, 3)
    indexed = quietly(sources.read_folder, folder)
    assert isinstance(indexed.paths, Names) and equal(indexed, listed)
    assert [indexed.file(i) for i in range(6)] == [listed.file(i) for i in range(6)]
    assert sources.fingerprint(indexed) == sources.fingerprint(listed)
    chosen = np.array([4, 0, 1, 5])
    assert equal(indexed.subset(chosen).subset(np.array([2, 0])), listed.subset(chosen).subset(np.array([2, 0])))
    sources.write_list(["a/x.jpg", FILES[5]], tmp_path / "bad.txt")
    excluded = quietly(sources.read_folder, folder, tmp_path / "bad.txt")
    assert tuple(excluded.paths) == ("a/deep/1.PNG", "b/2.jpg", "b/é ü.jpg", "c/d/e/3.png")
    assert os.listdir(folder).count("index.vitas") == 1 and len(os.listdir(folder)) == 4  # no temporary file


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "a" / "new.jpg").touch(),
        lambda root: (root / "a" / "x.jpg").unlink(),
        lambda root: (root / "a" / "deep" / "1.PNG").rename(root / "a" / "deep" / "2.PNG"),
        lambda root: (root / "c" / "d" / "e" / "4.png").touch(),
        lambda root: (root / "b" / "empty" / "4.png").touch(),
        lambda root: (root / "b" / "empty").rmdir(),
        lambda root: ((root / "d").mkdir(), (root / "d" / "1.jpg").touch()),
        lambda root: (root / "a").rename(root / "z"),
    ],
)
def test_a_changed_folder_is_listed(folder, change):
    sources.write_index(folder)
    change(folder)
    with pytest.warns(UserWarning, match=r"index\.vitas: .* has changed since, .* run `vitas index .*` again"):
        found = sources.read_folder(folder)
    (folder / "index.vitas").rename(folder / "index.old")
    assert equal(found, sources.read_folder(folder))


@pytest.mark.parametrize("damage", [lambda c: c[:-64], lambda c: c + b"x", lambda c: b"", lambda c: b"{}" + c[2:]])
def test_a_damaged_index_is_not_used(folder, damage):
    listed, (path, *_) = sources.read_folder(folder), sources.write_index(folder)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match=r"index\.vitas: damaged"):
        assert equal(sources.read_folder(folder), listed)


def test_invalid_folders_are_refused(tmp_path):
    for folder, message in ((tmp_path / "no", "no such folder of images"), (tmp_path, "no class folders; an index is")):
        with pytest.raises(UserError, match=message):
            sources.write_index(folder)
    (tmp_path / "void").mkdir()
    with pytest.raises(UserError, match="void: class has no images"):
        sources.write_index(tmp_path)
    assert os.listdir(tmp_path) == ["void"]


NAMES = st.lists(st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",))), max_size=30)


@given(NAMES, st.data())
def test_names_equal_a_tuple(names, data):
    text = np.frombuffer(b"".join(name.encode() + b"\0" for name in names), np.uint8)
    packed = Names(text, np.cumsum([len(name.encode()) + 1 for name in names]).astype(np.int64))
    for _ in range(3):
        assert (list(packed), len(packed)) == (list(names), len(names))
        assert [packed[i] for i in range(-len(names), len(names))] == [*names, *names]
        assert b"".join(joined(packed)) == b"".join(joined(tuple(names)))
        assert list(packed[1:-1:2]) == list(names[1:-1:2])
        rows = np.array(data.draw(st.lists(st.integers(0, len(names) - 1), max_size=40) if names else st.just([])), int)
        names, packed = choose(tuple(names), rows), choose(packed, rows)
    with pytest.raises(IndexError):
        packed[len(names)]


def many(root, classes, each):
    """Write an index of files that do not exist, in folders that do."""

    def listings():
        for label in range(classes):
            (root / f"n{label:08}").mkdir()
            time = os.stat(root / f"n{label:08}").st_mtime_ns
            yield Listing([f"n{label:08}/n{label:08}_{i}.JPEG" for i in range(each)], [f"n{label:08}"], [time])

    image_index.write(str(root), [f"n{label:08}" for label in range(classes)], listings())


def test_a_large_index_takes_little_memory(tmp_path):
    """A rank allocates at most 40 bytes per image to start: 14M images in 0.6 GB. As strings, they take 100 bytes."""
    many(tmp_path, 200, 500)
    tracemalloc.start()
    train, search = sources.hold_out(quietly(sources.read_folder, tmp_path), 5, 0)
    sources.fingerprint(train)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(train) == 99_000 and len(search) == 1_000
    assert peak < 40 * 100_000 + 6e6  # 6 MB: the names read by the fingerprint at a time
    listed = ImageSet(train.root, tuple(train.paths), train.labels, train.classes)
    assert sources.fingerprint(listed) == sources.fingerprint(train)


def test_the_command(folder):
    line = [sys.executable, "-m", "vitas_ds", "index"]
    done = subprocess.run([*line, folder], text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("index: 6 images of 3 classes in ")
    done = subprocess.run([*line, folder / "none"], text=True, capture_output=True)
    assert done.returncode == 2 and done.stderr == f"vitas index: {folder}/none: no such folder of images\n"
