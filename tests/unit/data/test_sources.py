"""Image sets equal torchvision's ImageFolder; splits satisfy their definition."""

import os
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchvision.datasets import ImageFolder

from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.data import sources
from vitas_ds.data.sources import ImageSet
from vitas_ds.errors import UserError
from vitas_ds.export.folder import Preprocess, read_preprocess, write_model
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.run.files import read_json


def synthetic(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    paths = tuple(f"c{label}/{i}.jpg" for i, label in enumerate(labels))
    return ImageSet("root", paths, labels.astype(np.int64), tuple(f"c{i}" for i in range(len(counts))))


def test_folder_equals_torchvision(tmp_path):
    for name in ("b/2.PNG", "b/deep/1.jpeg", "b/10.jpg", "a/x.webp", "a/notes.txt", "Z/é ü.JPG", "Z/a.gif", "top.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    images, reference = sources.read_folder(tmp_path), ImageFolder(tmp_path)
    assert [(images.file(i), images.labels[i]) for i in range(len(images))] == reference.samples
    assert list(images.classes) == reference.classes and len(images) == 5


def test_class_names_of_another_encoding_survive_every_file(tmp_path):
    """The name of one folder is in Latin-1; its images keep their paths."""
    for name in (b"caf\xe9", "käse".encode()):
        folder = os.path.join(os.fsencode(tmp_path), b"data", name)
        os.makedirs(folder)
        with open(os.path.join(folder, b"1.jpg"), "wb"):
            pass
    images = sources.read_folder(tmp_path / "data")
    assert sorted(images.classes) == ["caf\\udce9", "käse"] and all(os.path.exists(images.file(i)) for i in (0, 1))
    sources.write_classes(images.classes, tmp_path / "classes.json")
    assert read_json(tmp_path / "classes.json", {}) == {name: i for i, name in enumerate(images.classes)}
    network = VisionTransformer(SubnetSpec(8, 8, 4, 2, (LayerSpec(1, 12, 4),)))
    write_model(network, tmp_path / "net", Preprocess(8, classes=images.classes), "net", {})
    assert read_preprocess(tmp_path / "net").classes == images.classes
    assert sources.write_index(tmp_path / "data")[1:] == (2, 2)
    indexed = sources.read_folder(tmp_path / "data")
    assert (indexed.classes, tuple(indexed.paths)) == (images.classes, images.paths)


def test_invalid_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        sources.read_folder(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no class folders"):
        sources.read_folder(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "1.jpg").touch()
    (tmp_path / "void").mkdir()
    with pytest.raises(UserError, match="void: class has no images"):
        sources.read_folder(tmp_path)


def test_listed_images_are_excluded(tmp_path):
    names = ["a/1.jpg", "a/2.jpg", "b/ü.jpg", "b/4.jpg", os.fsdecode(b"b/\xff.jpg")]
    for name in names:
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).touch()
    listed = tmp_path / "bad.txt"
    sources.write_list(["a/1.jpg", str(tmp_path / "set" / "b" / "ü.jpg"), names[-1]], listed)
    assert sources.read_folder(tmp_path / "set", listed).paths == ("a/2.jpg", "b/4.jpg")
    sources.write_list(["a/1.jpg", "a/2.jpg"], listed)
    with pytest.raises(UserError, match=r"a: class has no images \(all 2 are in .*bad.txt"):
        sources.read_folder(tmp_path / "set", listed)
    with pytest.raises(UserError, match=r"data\.exclude"):
        sources.read_folder(tmp_path / "set", tmp_path / "none.txt")


def test_excluded_images_are_found_for_any_spelling(tmp_path):
    odd = "b/line\u2028separator.jpg"
    for name in ("a/1.jpg", "a/2.jpg", "a/3.jpg", "b/4.jpg", "b/5.jpg", odd):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).touch()
    (tmp_path / "link").symlink_to("set")
    listed = tmp_path / "bad.txt"
    lines = ["./a/1.jpg", f"{tmp_path}/link/a/../a/2.jpg", f"{tmp_path}/set/b/4.jpg\r", odd]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sources.write_list(lines, listed)
        for root in ("set", "link"):
            assert sources.read_folder(tmp_path / root, listed).paths == ("a/3.jpg", "b/5.jpg")
    sources.write_list([*lines, "a/none.jpg", "/elsewhere/a/3.jpg"], listed)
    with pytest.warns(UserWarning, match=r"data\.exclude: .*bad.txt: 2 lines match no image .* 'a/none.jpg'"):
        assert len(sources.read_folder(tmp_path / "set", listed)) == 2


@given(st.lists(st.integers(2, 9), min_size=1, max_size=5), st.integers(0, 2**32), st.data())
def test_hold_out_takes_per_class(counts, seed, data):
    images = synthetic(counts)
    per_class = data.draw(st.integers(1, min(counts) - 1))
    train, search = sources.hold_out(images, per_class, seed)
    assert np.bincount(search.labels, minlength=len(counts)).tolist() == [per_class] * len(counts)
    assert sorted(train.paths + search.paths) == sorted(images.paths)
    assert not set(train.paths) & set(search.paths)
    assert {p: label for s in (train, search) for p, label in zip(s.paths, s.labels, strict=True)} == dict(
        zip(images.paths, images.labels, strict=True)
    )
    assert sources.fingerprint(sources.hold_out(images, per_class, seed)[1]) == sources.fingerprint(search)


def test_hold_out_depends_on_the_seed_and_refuses_small_classes():
    images = synthetic([50, 50])
    assert sources.hold_out(images, 10, 0)[1].paths != sources.hold_out(images, 10, 1)[1].paths
    with pytest.raises(UserError, match="class c1 of root, which has 3 images; use 2 or less"):
        sources.hold_out(synthetic([9, 3]), 3, 0)


def test_fingerprint_depends_on_names_labels_classes_and_order():
    base = synthetic([2, 2])
    others = [synthetic([1, 3]), synthetic([2, 2, 1]), base.subset(np.array([1, 0, 2, 3])), base.subset(np.arange(3))]
    prints = {sources.fingerprint(images) for images in [base, *others]}
    assert len(prints) == 5 and sources.fingerprint(synthetic([2, 2])) in prints
