"""``vitas import`` of timm's weights: the folder and one-line errors. Logits: unit/export/test_from_timm."""

import json

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import vitas_ds
from tests.helpers.timm_networks import randomize
from vitas_ds.__main__ import main
from vitas_ds.tools.predict import predict

NAME = "vit_small_patch14_reg4_dinov2"  # 518 pixels, no classifier


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(randomize(timm.create_model(NAME, pretrained=False)).state_dict(), path)
    return path


@pytest.mark.slow
def test_a_new_classifier_and_image_size(weights, tmp_path, capsys):
    out, words = tmp_path / "net", ["import", "--net", f"timm:{NAME}.lvd142m", "--checkpoint", str(weights)]
    assert main([*words, "--out", str(out)]) == 2
    assert "has no classifier; give the number of classes with --classes" in capsys.readouterr().err
    assert main([*words, "--out", str(out), "--classes", "7", "--image-size", "98"]) == 0
    model = vitas_ds.load(out)
    assert model(torch.zeros(1, 3, 98, 98)).shape == (1, 7)
    assert json.loads((out / "preprocess.json").read_text())["resize"] == 98
    card = (out / "README.md").read_text()
    assert "license: apache-2.0" in card and "new, of 7 classes, not trained" in card and "w.safetensors" in card
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    assert len(predict(out, [tmp_path / "a.png"], 3)[0]["predictions"]) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--net", f"timm:{NAME}"], "--checkpoint: give a file, or --download"),
        (["--net", f"timm:{NAME}", "--checkpoint", "x", "--download"], "--checkpoint: excludes --download"),
        (["--net", "vitas-a", "--checkpoint", "x", "--classes", "4"], "--classes: only for networks of timm"),
        (["--net", f"timm:{NAME}", "--checkpoint", "x", "--classes", "0"], "--classes 0: must be 1 or more"),
        (["--net", f"timm:{NAME}", "--checkpoint", "nothing.pth"], "nothing.pth: no such file"),
    ],
)
def test_mistakes_are_one_line(words, message, tmp_path, capsys):
    assert main(["import", *words, "--out", str(tmp_path / "net")]) == 2
    line = capsys.readouterr().err
    assert message in line and line.count("\n") == 1
