"""``vitas importance`` on digits: the file, the plot, and one-line errors. Numbers: unit/elastic/test_importance."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.digits import write_digits
from tests.helpers.networks import random_network
from vitas_ds.__main__ import main
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.config import Data
from vitas_ds.data.loader import eval_batches
from vitas_ds.data.sources import fingerprint, read_folder
from vitas_ds.distributed.comm import Ranks
from vitas_ds.elastic.importance import measure
from vitas_ds.elastic.scores import read_scores
from vitas_ds.export.folder import Preprocess, read_model, weights_digest, write_model
from vitas_ds.tools.importance import choose

SPEC = SubnetSpec(24, 8, 16, 10, (LayerSpec(2, 48, 32), LayerSpec(1, 9, 8)), prefix_tokens=3, layer_scale=True)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"), train_per_class=3, val_per_class=1) / "train"


def write(folder, spec=SPEC, **facts):
    write_model(random_network(spec), folder, Preprocess(27), "net", facts)
    return folder


def test_the_file_has_the_importance_of_the_chosen_images(digits, tmp_path, capsys):
    model, out = write(tmp_path / "net"), tmp_path / "a.json"
    words = ["importance", str(model), "--data", str(digits), "--out", str(out), "--images", "12"]
    assert main(words) == 0
    scores = read_scores(out)
    images = choose(read_folder(digits), 12, 0)
    assert (scores.weights, scores.data, scores.images) == (weights_digest(model), fingerprint(images), 12)
    batches = eval_batches(images, Preprocess(27).apply_to(Data()), 24, 5, Ranks(0, 1, 0, torch.device("cpu")))
    again = measure(read_model(model), batches, "labels", scores.weights, scores.data)
    np.testing.assert_allclose(again.embedding, scores.embedding, rtol=1e-5)
    np.testing.assert_allclose(again.layers[0].mlp, scores.layers[0].mlp, rtol=1e-3, atol=1e-7)
    assert Image.open(tmp_path / "a.png").size[0] > 1000
    content = out.read_bytes()
    assert main(words) == 0 and "12 images (measured before)" in capsys.readouterr().out
    assert main([*words, "--seed", "1"]) == 2 and "give a new file" in capsys.readouterr().err
    assert out.read_bytes() == content


def test_no_labels_are_needed_for_two_views(digits, tmp_path, capsys):
    """A network with a new classifier, of other classes than the folder."""
    model = write(tmp_path / "net", SubnetSpec(24, 8, 16, 7, (LayerSpec(2, 48, 32),)), classifier="new, of 7 classes")
    words = ["importance", str(model), "--data", str(digits), "--out", str(tmp_path / "a.json"), "--images", "99"]
    assert main(words) == 2
    assert "its classifier is not trained; use --loss views" in capsys.readouterr().err
    assert main([*words, "--loss", "views"]) == 0
    assert "has 30 images, fewer than 99" in capsys.readouterr().out
    scores = read_scores(tmp_path / "a.json")
    assert (scores.images, scores.loss) == (30, "views") and min(scores.layers[0].heads) > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--images", "0"], "--images 0: must be 1 or more"),
        (["--out", "a.txt"], "--out a.txt: must end with .json"),
        (["--data", "nowhere"], "nowhere: no such folder of images"),
        ([], "has 10 classes, the model 7; use --loss views"),
    ],
)
def test_mistakes_are_one_line(change, message, digits, tmp_path, capsys):
    model = write(tmp_path / "net", SubnetSpec(24, 8, 16, 7, (LayerSpec(2, 48, 32),)))
    words = ["importance", str(model), "--data", str(digits), "--out", str(tmp_path / "a.json")]
    assert main([*words, *change]) == 2
    line = capsys.readouterr().err
    assert message in line and line.count("\n") == 1


def test_another_plot_is_kept(digits, tmp_path, capsys):
    model = write(tmp_path / "net", SubnetSpec(24, 8, 16, 10, (LayerSpec(2, 48, 32),)))
    (tmp_path / "a.png").write_bytes(b"another")
    assert main(["importance", str(model), "--data", str(digits), "--out", str(tmp_path / "a.json")]) == 2
    assert "a.png exists already; give a new file" in capsys.readouterr().err
    assert (tmp_path / "a.png").read_bytes() == b"another" and not (tmp_path / "a.json").exists()


def test_folders_without_a_model(digits, tmp_path, capsys):
    assert main(["importance", str(tmp_path), "--data", str(digits), "--out", str(tmp_path / "a.json")]) == 2
    assert "not an exported model" in capsys.readouterr().err
