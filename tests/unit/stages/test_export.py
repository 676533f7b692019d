"""Stage export on a small network that has learned its images: files, measurements and model card.

References: the network and images of the stage, and the files of a first export.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import ModelCard

import vitas_ds
from tests.helpers.digits import write_digits
from tests.helpers.hub import serve_hub
from tests.helpers.paths import FIXTURES
from vitas_ds.__main__ import main
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.config import dump
from vitas_ds.data.loader import eval_batches
from vitas_ds.data.sources import read_folder
from vitas_ds.distributed import comm
from vitas_ds.distributed.comm import Ranks
from vitas_ds.export.folder import Preprocess, read_model, read_preprocess, write_model
from vitas_ds.export.to_onnx import open_onnx
from vitas_ds.models.layers import init_weights
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.recipe import load
from vitas_ds.run import lock
from vitas_ds.run.files import write_text
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.start import open_run
from vitas_ds.run.summary import read_summary, update_summary

TINY = FIXTURES / "tiny.yaml"
EQUAL_LAYERS = SubnetSpec(28, 7, 32, 10, (LayerSpec(2, 96, 64),) * 2)
UNEQUAL_LAYERS = SubnetSpec(28, 7, 32, 10, (LayerSpec(2, 96, 64), LayerSpec(4, 48, 32)))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"), train_per_class=1, val_per_class=10)


@pytest.fixture(autouse=True, scope="module")
def one_job():
    yield
    comm.close()


def trained_model(spec: SubnetSpec, root: Path) -> VisionTransformer:
    """Return a network that classifies most images: the accuracy of a random one would prove nothing."""
    model = VisionTransformer(spec)
    init_weights(model, 0)
    data = load(str(TINY), []).data
    images = read_folder(root / "val")
    (batch,) = eval_batches(images, data, 28, len(images), Ranks(0, 1, 0, torch.device("cpu")))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(batch.images), batch.labels).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture
def words(tmp_path, digits):
    """Command-line words of a run in which the stage retrain has finished."""
    words = [str(TINY), f"run.dir={tmp_path}/runs", f"data.train={digits}/train", f"data.val={digits}/val"]
    run = open_run(load(words[0], words[1:]), True, stage="retrain")
    preprocess = Preprocess(28, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), tuple(map(str, range(10))))
    write_model(
        trained_model(EQUAL_LAYERS, digits), run.retrain_model, preprocess, "tiny", {"accuracy": "not evaluated"}
    )
    lock.release()
    return words


def run_of(words: list[str]) -> RunDir:
    return RunDir(Path(words[1].partition("=")[2]) / "tiny")


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def compare(model, other) -> float:
    images = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return (model(images) - other(images)).abs().max().item()


PLAIN = {"model.safetensors", "spec.json", "preprocess.json", "config.json", "README.md"}
TIMM = {"timm/model.safetensors", "timm/config.json", "timm/README.md"}


@pytest.mark.slow
def test_all_files(words, capsys):
    assert main(["export", *words, "export.onnx=true", "export.int8=true", "export.program=true"]) == 0
    run = run_of(words)
    assert names(run.export) == PLAIN | TIMM | {"model.onnx", "model_int8.onnx", "model.pt2"}
    model = vitas_ds.load(run.export)
    with_timm = timm.create_model(f"local-dir:{run.export}/timm", pretrained=True).eval()
    assert compare(model, with_timm) < 1e-4
    directly = timm.create_model(f"local-dir:{run.export}", pretrained=True).eval()
    assert compare(with_timm, directly) == 0 and directly.pretrained_cfg["label_names"] == list(map(str, range(10)))
    with_onnx = open_onnx(run.export / "model.onnx")
    for n in (1, 3, 8):  # any number of images
        images = torch.randn(n, 3, 28, 28, generator=torch.Generator().manual_seed(n))
        torch.testing.assert_close(with_onnx(images), model(images).detach(), rtol=0, atol=1e-4)
    with torch.backends.mkldnn.flags(enabled=False):  # the program uses torch's own matrix products
        assert compare(model, torch.export.load(run.export / "model.pt2").module()) == 0
    found = read_summary(run)["export"]
    assert found["dir"] == str(run.export) and found["bytes"] == os.path.getsize(run.export / "model.safetensors")
    assert set(found["checks"]) == {"timm", "program", "onnx", "int8"}
    assert all(0 <= found["checks"][name]["apart"] < 1e-4 for name in ("timm", "program", "onnx"))

    int8, card = found["checks"]["int8"], (run.export / "README.md").read_text()
    assert int8["images"] == 100 and int8["change"] == pytest.approx(int8["int8_top1"] - int8["top1"])
    assert f"top-1 {int8['int8_top1']:.2%}, float32 {int8['top1']:.2%}, of the same 100 images" in card
    paths = sorted(str(path) for path in Path(words[3].partition("=")[2]).rglob("*.jpg"))
    for file, key in ((run.export, "top1"), (run.export / "model_int8.onnx", "int8_top1")):  # count with the tool
        capsys.readouterr()
        assert main(["predict", str(file), *paths, "--top", "1", "--json"]) == 0
        answers = json.loads(capsys.readouterr().out)
        hits = sum(Path(one["file"]).parent.name == one["predictions"][0]["class"] for one in answers)
        assert hits / 100 == int8[key] > 0.5


def test_card_states_only_results_of_these_weights(words):
    run = run_of(words)
    assert main(["export", *words]) == 0
    card = ModelCard((run.export / "README.md").read_text())
    assert "| accuracy | not evaluated |" in card.text and card.data.eval_results is None
    digest = hashlib.sha256(run.retrain_weights.read_bytes()).hexdigest()
    measured = {"top1": 0.81, "top5": 0.97, "images": 100, "val": "/a/b/val", "sha256": digest}
    update_summary(run, "evaluate", measured | {"sha256": "0" * 64})  # of other weights
    assert main(["export", *words]) == 0
    assert "not evaluated" in (run.export / "README.md").read_text()
    update_summary(run, "evaluate", measured)
    assert main(["export", *words, "export.license=cc-by-4.0"]) == 0
    card = ModelCard((run.export / "README.md").read_text())
    assert "| top-1 / top-5 | 81.00% / 97.00% of 100 images |" in card.text and card.data.license == "cc-by-4.0"
    assert [(r.dataset_name, r.metric_value) for r in card.data.eval_results] == [("b/val", 0.81), ("b/val", 0.97)]
    assert "budget: 150,000 to 400,000 MACs" in card.text and "2 epochs in batches of 16" in card.text
    assert str(Path(words[2].partition("=")[2]).parent) not in card.content  # no paths of this machine


@pytest.mark.parametrize(
    ("search", "choice", "budget"),
    [
        ({"macs": (1e5, 3e5)}, "best", "100,000 to 300,000 MACs"),
        ({"macs": None, "budgets": ("300K", "params<=90K")}, "budget[1]", "81,000 to 90,000 parameters"),
        ({"macs": None, "budgets": ("300K", "params<=90K")}, "best", "macs<=300K or params<=90K"),
        ({}, "best", "unknown"),
    ],
)  # fmt: skip
def test_card_states_the_budget_of_the_run_that_was_searched(words, tmp_path, search, choice, budget):
    source = tmp_path / "source"
    if search:
        config = load(words[0], words[1:])
        config = config.model_copy(update={"search": config.search.model_copy(update=search)})
        write_text(source / "config.yaml", dump(config))
    words.append(f"retrain.spec={source}:search:{choice}")
    write_text(run_of(words).config, dump(load(words[0], words[1:])))
    assert main(["export", *words]) == 0
    card = (run_of(words).export / "README.md").read_text()
    assert f"found by a search (search:{choice}); budget: {budget} |" in card


def test_card_has_a_usage_example_that_runs(words, monkeypatch):
    assert main(["export", *words]) == 0
    run = run_of(words)
    card = (run.export / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    image = next(Path(words[3].partition("=")[2]).rglob("*.jpg"))
    values: dict = {}
    exec(code.replace("path/to/this/folder", str(run.export)).replace("image.jpg", str(image)), values)
    assert compare(values["model"], vitas_ds.load(run.retrain_model)) == 0


def test_card_has_cost_data_license_and_digests(words):
    update_summary(run_of(words), "retrain", {"seconds": 3725})
    assert main(["export", *words]) == 0
    run = run_of(words)
    card = ModelCard((run.export / "README.md").read_text())
    for row in ("| training time | 1:02:05 on 1 rank |", "| license | apache-2.0 |", "| training images | ",
                "| preprocessing | shorter side to 28, center crop of 28, ", "| MACs of an image | "):  # fmt: skip
        assert row in card.text, row
    stated = dict(re.findall(r"\| `([^`]+)` \| `([0-9a-f]{64})` \|", card.text))
    files = names(run.export) - {"README.md"}
    assert stated == {file: hashlib.sha256((run.export / file).read_bytes()).hexdigest() for file in files}


@pytest.mark.slow
def test_push_to_the_hub(words, tmp_path, capsys):
    with serve_hub() as hub:
        done = subprocess.run(
            [sys.executable, "-m", "vitas_ds", "export", *words, "--push-to-hub", "me/tiny", "--private"],
            capture_output=True, text=True, timeout=120, env=os.environ | hub.environment(tmp_path / "home"),
        )  # fmt: skip
    run = run_of(words)
    assert done.returncode == 0 and f"{run.export} is now {hub.address}/me/tiny" in done.stdout, done.stderr
    assert hub.models["me/tiny"] == {file: (run.export / file).read_bytes() for file in names(run.export)}
    before = {path: path.stat().st_mtime_ns for path in run.export.rglob("*")}
    line = refused([*words, "export.license=mit", "--push-to-hub", "a//b"], capsys)
    assert "--push-to-hub a//b: must be NAME or USER/NAME" in line
    assert {path: path.stat().st_mtime_ns for path in run.export.rglob("*")} == before  # found before any work


def test_evaluate_then_export(words):
    assert main(["evaluate", *words]) == 0
    assert main(["export", *words]) == 0
    run = run_of(words)
    top1 = read_summary(run)["evaluate"]["top1"]
    assert top1 > 0.5 and f"| {top1:.2%} / " in (run.export / "README.md").read_text()


def test_an_export_from_another_folder_is_the_same_one(words, digits, tmp_path, monkeypatch, capsys):
    """The first start has relative paths; the second one reads the absolute paths of ``config.yaml``."""
    run = run_of(words)
    monkeypatch.chdir(digits)
    assert main(["export", *words[:2], "data.train=train", "data.val=val"]) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run.path)]) == 0
    assert "export: done already" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["spec.json", "README.md", "model.safetensors"])
def test_a_folder_without_one_of_its_files_is_written_again(words, capsys, name):
    run = run_of(words)
    assert main(["export", *words]) == 0
    capsys.readouterr()
    before = (run.export / "spec.json").read_bytes(), (run.export / "model.safetensors").read_bytes()
    (run.export / name).unlink()
    assert main(["export", *words]) == 0
    assert "done already" not in capsys.readouterr().out
    assert ((run.export / "spec.json").read_bytes(), (run.export / "model.safetensors").read_bytes()) == before
    assert (run.export / "README.md").is_file()


def test_second_export_keeps_earlier_files(words, capsys):
    words = [*words, f"export.model={run_of(words).retrain_model}", "run.name=blind", 'data.val=""']
    run = RunDir(run_of(words).path.with_name("blind"))
    assert main(["export", *words, "export.onnx=true", "export.int8=true"]) == 0
    assert "its accuracy is not measured" in (run.export / "README.md").read_text()
    assert set(read_summary(run)["export"]["checks"]["int8"]) == {"apart", "bytes"}
    before = read_summary(run)["export"], (run.export / "model_int8.onnx").stat().st_mtime_ns
    assert main(["export", *words]) == 0  # with fewer options: existing files are kept
    assert (read_summary(run)["export"], (run.export / "model_int8.onnx").stat().st_mtime_ns) == before
    assert "done already" in capsys.readouterr().out
    assert main(["export", *words, "export.license=mit", "export.timm=false"]) == 0
    assert names(run.export) == PLAIN | {"model.onnx", "model_int8.onnx"}
    assert set(read_summary(run)["export"]["checks"]) == {"onnx", "int8"}  # no entries of deleted files
    assert {path.name for path in run.path.iterdir()} >= {"export"} and not list(run.path.glob(".export*"))


def test_another_folder_keeps_its_facts(words, digits, tmp_path, capsys):
    other = tmp_path / "other"
    write_model(trained_model(UNEQUAL_LAYERS, digits), other, Preprocess(28), "other", {"weights": "from elsewhere"})
    assert main(["export", *words, f"export.model={other}"]) == 0
    run, output = run_of(words), capsys.readouterr()
    assert names(run.export) == PLAIN
    assert "export: no timm/: timm's VisionTransformer requires identical layers" in output.out
    card = (run.export / "README.md").read_text()
    assert "| weights | from elsewhere |" in card and "epochs" not in card and "| accuracy | not evaluated |" in card
    assert (run.export / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    digest = hashlib.sha256((other / "model.safetensors").read_bytes()).hexdigest()
    update_summary(run, "evaluate", {"top1": 0.5, "top5": 0.7, "images": 9, "val": "/v", "sha256": digest})
    assert main(["export", *words, f"export.model={other}"]) == 0
    update_summary(run, "evaluate", {"sha256": ""})
    card = (run.export / "README.md").read_text()
    assert "| top-1 / top-5 | 50.00% / 70.00% of 9 images |" in card and "not evaluated" not in card
    card = ModelCard(card).text
    assert main(["export", *words, f"export.model={run.export}"]) == 0  # onto itself: the facts are kept
    assert ModelCard((run.export / "README.md").read_text()).text == card
    assert main(["export", *words, f"export.model={other}", "export.timm=false"]) == 0
    assert "timm" not in capsys.readouterr().out.splitlines()[-1]


def refused(words: list[str], capsys) -> str:
    capsys.readouterr()
    assert main(["export", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.slow
def test_user_errors_are_one_line_and_keep_the_export(words, tmp_path, capsys, monkeypatch):
    run = run_of(words)
    assert main(["export", *words]) == 0
    before = {path: path.stat().st_mtime_ns for path in run.export.rglob("*")}
    assert "int8 is converted from the ONNX file" in refused([*words, "export.int8=true"], capsys)
    assert "export.opset" in refused([*words, "export.opset=9"], capsys)
    assert "/nowhere: not an exported model" in refused([*words, "export.model=/nowhere"], capsys)
    assert "run the stage retrain first" in refused([*words, "run.name=fresh"], capsys)
    both = ["export.onnx=true", "export.int8=true"]
    model, preprocess = read_model(run.retrain_model), read_preprocess(run.retrain_model)
    write_model(model, run.retrain_model, replace(preprocess, classes=tuple("abcdefghij")), "renamed", {})
    assert "has other classes than" in refused([*words, *both], capsys)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert refused([*words, "export.onnx=true"], capsys).endswith(
        "onnxscript: not installed; pip install -e '.[export]'"
    )
    assert {path: path.stat().st_mtime_ns for path in run.export.rglob("*")} == before
    assert not list(run.path.glob(".export*"))


def test_private_without_a_push_is_a_warning(tmp_path, capsys):
    assert main(["export", str(TINY), f"run.dir={tmp_path}", "--private"]) == 2  # nothing is trained
    assert "warning: --private: ignored without --push-to-hub NAME\n" in capsys.readouterr().err


def test_without_timm(words, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert main(["export", *words]) == 0
    assert "export: timm/ is not checked: timm is not installed; pip install -e '.[export]'" in capsys.readouterr().out
    run = run_of(words)
    assert names(run.export) == PLAIN | TIMM and "not checked against it" in (run.export / "README.md").read_text()
    assert read_summary(run)["export"]["checks"] == {}
