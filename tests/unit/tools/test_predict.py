"""``vitas predict``: logits equal those of evaluation; unreadable input is a one-line error."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.digits import write_digits
from vitas_ds.__main__ import main
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.config import Data
from vitas_ds.data.loader import eval_batches
from vitas_ds.data.sources import read_folder
from vitas_ds.distributed.comm import Ranks
from vitas_ds.export import to_onnx
from vitas_ds.export.folder import Preprocess, write_model
from vitas_ds.models.layers import init_weights
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.tools.predict import _table, classify, predict

pytestmark = pytest.mark.slow

SPEC = SubnetSpec(24, 8, 16, 10, (LayerSpec(2, 48, 32), LayerSpec(1, 9, 8)))
PREPROCESS = Preprocess(27, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), tuple(f"digit {i}" for i in range(10)))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Images of several sizes, as evaluation reads them."""
    root = write_digits(tmp_path_factory.mktemp("digits"), 1, 8) / "val"
    for i, path in enumerate(sorted(root.rglob("*.jpg"))):
        image = Image.open(path)
        image.resize((28 + 5 * i % 40, 30 + 7 * i % 50)).save(path, quality=95)
    return read_folder(root)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An exported folder with an ONNX file, and its network."""
    net = VisionTransformer(SPEC).eval()
    init_weights(net, 0)
    with torch.no_grad():
        for weight in net.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
    folder = tmp_path_factory.mktemp("model") / "net"
    write_model(net, folder, PREPROCESS, "net", {})
    to_onnx.write_onnx(to_onnx.trace(net), folder / "model.onnx", 20)
    return folder, net


def files_of(images) -> list[Path]:
    return [Path(images.file(i)) for i in range(len(images))]


def test_logits_equal_those_of_evaluation(images, model):
    folder, net = model
    data = Data(resize=27, mean=PREPROCESS.mean, std=PREPROCESS.std)
    with torch.inference_mode():
        expected = torch.cat(
            [net(b.images) for b in eval_batches(images, data, 24, 64, Ranks(0, 1, 0, torch.device("cpu")))]
        )
    logits, names = classify(folder, files_of(images))
    assert len(images) == 80 and expected.std() > 0.5  # more than one batch
    assert torch.equal(logits, expected) and names == PREPROCESS.classes
    backwards, _ = classify(folder, files_of(images)[::-1])
    torch.testing.assert_close(backwards.flip(0), expected, rtol=0, atol=1e-5)
    by_onnx, _ = classify(folder / "model.onnx", files_of(images))
    torch.testing.assert_close(by_onnx, expected, rtol=0, atol=1e-4)


def test_preprocessing_against_pillow(tmp_path, model):
    """A lossless image of the crop's size is not resampled, and its input can be computed by hand."""
    _, net = model
    write_model(net, tmp_path / "net", Preprocess(24, PREPROCESS.mean, PREPROCESS.std), "net", {})
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    x = (torch.from_numpy(pixels) / 255 - torch.tensor(PREPROCESS.mean)) / torch.tensor(PREPROCESS.std)
    with torch.no_grad():
        expected = net(x.permute(2, 0, 1)[None].float())
    logits, names = classify(tmp_path / "net", [tmp_path / "a.png"])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    assert names == tuple("0123456789")


@pytest.mark.parametrize("flags", [[], ["--onnx"]])
def test_json(images, model, capsys, flags):
    folder, _ = model
    files = files_of(images)[:3]
    assert main(["predict", str(folder), *map(str, files), "--json", *flags]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["file"] for one in found] == [str(file) for file in files]
    probabilities = classify(folder, files)[0].softmax(1)
    for row, one in zip(probabilities, found, strict=True):
        order = row.argsort(descending=True)[:5].tolist()
        assert [p["label"] for p in one["predictions"]] == order
        assert [p["class"] for p in one["predictions"]] == [f"digit {label}" for label in order]
        assert [p["probability"] for p in one["predictions"]] == pytest.approx(row[order].tolist(), abs=1e-4)


def test_table(images, model, capsys):
    folder, _ = model
    file = files_of(images)[0]
    assert main(["predict", str(folder), str(file), "--top", "20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(file) and len(lines) == 11  # there are only ten classes
    shares = [float(line.split("%")[0]) for line in lines[1:]]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(100, abs=0.6)
    best = predict(folder, [file], 1)[0]["predictions"]
    assert len(best) == 1 and lines[1].endswith(f"%  {best[0]['class']}")


def test_names_of_others_are_printable_and_short():
    names = ("\x1b[31mred\nb\rc", "\u202egpj.cat", "x" * 500)
    rows = [{"label": 0, "class": name, "probability": 0.5} for name in names]
    file, *lines = _table([{"file": "a\x1b[31m.jpg", "predictions": rows}]).split("\n")
    assert file == "a\\x1b[31m.jpg" and len(lines) == 3
    assert lines[0] == "   50.0 %  \\x1b[31mred b c" and lines[1] == "   50.0 %  \\u202egpj.cat"
    assert len(lines[2]) == 11 + 80


def refused(capsys, *words) -> str:
    capsys.readouterr()
    assert main(["predict", *map(str, words)]) == 2
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert not output.out
    return line.removeprefix("vitas predict: ")


def test_user_errors_are_one_line(images, model, tmp_path, capsys):
    folder, net = model
    good, text = files_of(images)[0], tmp_path / "text.jpg"
    text.write_text("no image")
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(good.read_bytes()[:100])
    for bad in (text, cut):
        assert refused(capsys, folder, bad) == f"{bad}: cannot be read as an image"
    assert refused(capsys, folder, tmp_path / "none.jpg") == f"{tmp_path}/none.jpg: no such file"
    assert refused(capsys, folder, tmp_path) == f"{tmp_path}: is a folder, not an image file"
    assert "--top 0" in refused(capsys, folder, good, "--top", "0")
    assert refused(capsys, tmp_path / "nowhere", good) == (
        f"{tmp_path}/nowhere: neither a folder of an exported model nor an .onnx file in one"
    )
    assert refused(capsys, tmp_path, good).startswith(f"{tmp_path}: has no spec.json; a run keeps its models in")
    write_model(net, tmp_path / "bare", Preprocess(24, classes=("a", "b")), "bare", {})
    assert "names 2 classes, spec.json has 10" in refused(capsys, tmp_path / "bare", good)
    write_model(net, tmp_path / "bare", Preprocess(24), "bare", {})
    assert refused(capsys, tmp_path / "bare", good, "--onnx").startswith(f"{tmp_path}/bare/model.onnx: no such file")


def test_bad_files_are_named_and_the_others_classified(images, model, tmp_path, capsys):
    folder, _ = model
    good, text = files_of(images)[:2], tmp_path / "text.jpg"
    text.write_text("no image")
    names = [good[0], text, tmp_path / "none.jpg", good[1], tmp_path]
    assert main(["predict", *map(str, [folder, *names]), "--json"]) == 1
    output = capsys.readouterr()
    assert [row["file"] for row in json.loads(output.out)] == [str(file) for file in good]
    assert output.err.splitlines() == [
        f"vitas predict: {tmp_path}/none.jpg: no such file",
        f"vitas predict: {tmp_path}: is a folder, not an image file",
        f"vitas predict: {text}: cannot be read as an image",
    ]
