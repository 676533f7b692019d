"""Tar shards yield the same images as the folder they were made from.

Reference: the source folder of the shards.
"""

import io
import json
import tarfile
import warnings

import numpy as np
import pytest
import torch

from tests.helpers.photos import cpu_rank, take
from vitas_ds.config import Augment
from vitas_ds.data import loader
from vitas_ds.data.scan import scan
from vitas_ds.data.sources import hold_out, read_folder, write_list
from vitas_ds.errors import UserError


def add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def make_shards(folder, images, order, per_shard=8):
    """Write the images in ``order`` as WebDataset shards."""
    for first in range(0, len(order), per_shard):
        with tarfile.open(folder / f"train-{first:04}.tar", "w") as tar:
            for i in order[first : first + per_shard]:
                with open(images.file(i), "rb") as file:
                    add(tar, f"part/{i:05}.jpg", file.read())
                add(tar, f"part/{i:05}.cls", str(images.labels[i]).encode())


def write_indices(folder):
    """Write indices like DALI's wds2idx, v1.2."""
    for path in folder.glob("*.tar"):
        lines = {}
        with tarfile.open(path) as tar:
            for member in tar:
                key, extension = member.name.split(".")
                lines.setdefault(key, []).append(f"{extension} {member.offset_data} {member.size} {member.name}")
        text = "\n".join([f"v1.2 {len(lines)}", *(" ".join(parts) for parts in lines.values())])
        path.with_suffix(".idx").write_text(text + "\n")


@pytest.fixture
def folder(tree):
    return read_folder(tree)


@pytest.mark.parametrize("index", [False, True])
def test_shards_yield_the_same_images(tmp_path, folder, data, index):
    order = np.random.default_rng(0).permutation(len(folder)).tolist()
    make_shards(tmp_path, folder, order)
    (tmp_path / "classes.json").write_text(json.dumps({name: i for i, name in enumerate(folder.classes)}))
    if index:
        write_indices(tmp_path)
    shards = read_folder(tmp_path)
    assert shards.classes == folder.classes and len(shards) == len(folder)
    sets = (shards, folder.subset(np.array(order)))
    from_shards, from_folder = (list(loader.eval_batches(images, data, 32, 5, cpu_rank())) for images in sets)
    for a, b in zip(from_shards, from_folder, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
    from_shards, from_folder = (
        take(loader.train_batches(images, data, Augment(), 32, 7, 0, 1, cpu_rank()), 3) for images in sets
    )
    assert all(
        torch.equal(x, y) for a, b in zip(from_shards, from_folder, strict=True) for x, y in zip(a, b, strict=True)
    )
    train, search = hold_out(shards, 2, 0)
    assert len(search) == 6 and len(train) == 15 and len(train.spans) == 15


@pytest.mark.slow
def test_a_bad_image_in_a_shard_is_named_and_can_be_excluded(tmp_path, folder, data):
    make_shards(tmp_path, folder, list(range(len(folder))))
    with tarfile.open(tmp_path / "train-9999.tar", "w") as tar:
        add(tar, "part/bad.jpg", b"not an image")
        add(tar, "part/bad.cls", b"1\n")
    with pytest.raises(UserError, match=r"train-9999.tar/part/bad.jpg: cannot be read"):
        list(loader.eval_batches(read_folder(tmp_path), data, 32, 8, cpu_rank()))
    (tmp_path / "stray.jpg").write_bytes(b"not an image, and not in a shard")
    ((path, reason),) = scan(tmp_path, 1)
    assert path == str(tmp_path / "train-9999.tar" / "part" / "bad.jpg")
    assert reason.startswith("not decodable")
    write_list([path], tmp_path / "bad.txt")
    assert len(read_folder(tmp_path, tmp_path / "bad.txt")) == len(folder)


def test_a_bad_shard_is_named_and_can_be_excluded(tmp_path, folder):
    make_shards(tmp_path, folder, list(range(len(folder))))
    count = len(read_folder(tmp_path))
    with tarfile.open(tmp_path / "train-9998.tar", "w") as tar:
        add(tar, "part/1.jpg", b"without a label")
    cut = tmp_path / "train-9999.tar"
    cut.write_bytes((tmp_path / "train-0000.tar").read_bytes()[:700])
    with pytest.raises(UserError, match=r"train-9998.tar: sample part/1 has no .cls file"):
        read_folder(tmp_path)
    bad = scan(tmp_path, 1)
    assert [path for path, _ in bad] == [str(tmp_path / f"train-999{i}.tar") for i in (8, 9)]
    assert bad[0][1] == "sample part/1 has no .cls file" and bad[1][1].startswith("not a complete tar file")
    write_list([path for path, _ in bad], tmp_path / "bad.txt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_folder(tmp_path, tmp_path / "bad.txt")) == count


def test_only_bad_shards(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"not a tar file" * 99)
    assert [path for path, _ in scan(tmp_path, 1)] == [str(tmp_path / "a.tar")]


def test_invalid_shards_are_refused(tmp_path):
    def shard(*members):
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            for name, content in members:
                add(tar, name, content)

    shard(("1.jpg", b"x"))
    with pytest.raises(UserError, match=r"sample 1 has no .cls file"):
        read_folder(tmp_path)
    shard(("1.cls", b"0"))
    with pytest.raises(UserError, match=r"sample 1 has no image"):
        read_folder(tmp_path)
    shard(("1.jpg", b"x"), ("1.cls", b"cat"))
    with pytest.raises(UserError, match=r"1.cls: b'cat' is not a label"):
        read_folder(tmp_path)
    shard(("1.jpg", b"x"), ("1.cls", b"2"))
    with pytest.raises(UserError, match=r"class 0 has no images"):
        read_folder(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"not a tar file" * 99)
    with pytest.raises(UserError, match=r"a.tar: not a complete tar file"):
        read_folder(tmp_path)


def write_shard(path, *members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            add(tar, name, content)
    with tarfile.open(path) as tar:
        return {member.name: f"{member.offset_data} {member.size} {member.name}" for member in tar}


def test_an_index_supports_spaces_and_dotted_folders(tmp_path):
    keys = ["a.b/1", "a.b/2", "two words/x y", "jpg 1 2 z"]
    members = [(f"{key}.{ext}", b"0" if ext == "cls" else b"x") for key in keys for ext in ("jpg", "cls")]
    lines = write_shard(tmp_path / "a.tar", *members)
    plain = read_folder(tmp_path)
    assert plain.paths == tuple(f"a.tar/{key}.jpg" for key in keys)
    text = "\n".join(f"jpg {lines[key + '.jpg']} cls {lines[key + '.cls']}" for key in keys)
    (tmp_path / "a.idx").write_text(f"v1.2 4\n{text}\n")
    indexed = read_folder(tmp_path)
    assert indexed.paths == plain.paths and (indexed.spans == plain.spans).all()


def test_a_wrong_index_is_refused(tmp_path):
    lines = write_shard(tmp_path / "a.tar", *((f"{i}.{ext}", b"0") for i in range(3) for ext in ("jpg", "cls")))
    complete = [f"jpg {lines[f'{i}.jpg']} cls {lines[f'{i}.cls']}" for i in range(3)]

    def index(first, *lines):
        (tmp_path / "a.idx").write_text("\n".join([first, *lines]) + "\n")

    index("v1.2 3", *complete)
    assert len(read_folder(tmp_path)) == 3
    for first, samples, message in (
        ("", (), "version missing"),
        ("v1.2", complete, "3 samples, but the first line says ''"),
        ("v1.2 3", complete[:2], "2 samples, but the first line says '3'"),
        ("v1.2 2", complete[:2], r"2.jpg and later files of .*a.tar are missing"),
        ("v1.2 3", [complete[0], "", complete[2]], "line 3: expected extension offset size name"),
        ("v1.2 3", [*complete[:2], "jpg 512"], "line 4: expected extension"),
        ("v1.2 3", [complete[0].replace("512", "x"), *complete[1:]], "line 2: expected extension"),
        ("v1.2 3", [complete[0].replace("512", "-512"), *complete[1:]], "line 2: expected extension"),
        ("v1.2 3", [complete[0].replace("512", "99999"), *complete[1:]], "line 2: points beyond the end of the shard"),
    ):
        index(first, *samples)
        with pytest.raises(UserError, match=rf"a.idx: {message}"):
            read_folder(tmp_path)
