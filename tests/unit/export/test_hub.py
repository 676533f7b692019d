"""Push to a hub and load from it, through huggingface_hub itself and over HTTP.

References: the exported folder and its logits.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import close_session, constants

import vitas_ds
from tests.helpers.hub import serve_hub
from tests.helpers.networks import random_network
from tests.helpers.paths import ROOT
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.errors import UserError
from vitas_ds.export.folder import Preprocess, write_model
from vitas_ds.export.hub import is_hub_name, local_folder, push

SPEC = SubnetSpec(16, 8, 10, 4, (LayerSpec(2, 12, 7), LayerSpec(1, 9, 5)))
IMAGES = "torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(5))"
FINE_TUNE = """
import numpy as np
from vitas_ds.data.sources import ImageSet
from vitas_ds.recipe import load
from vitas_ds.run.run_dir import run_of
from vitas_ds.stages import retrain

words = ["retrain.init=hf://me/net", "space.image_size=16", "space.patch_sizes=[8]", "space.num_classes=6"]
config, images = load("tests/fixtures/tiny.yaml", words), ImageSet("", ("a",), np.zeros(1, int), tuple("abcdef"))
run, ranks = run_of(config), retrain.Ranks(0, 1, 0, torch.device("cpu"))
task = retrain.make_task(config, run, ranks, retrain.chosen_spec(config, run), images)
print(task.init())
print(sum(float(x.double().sum()) for name, x in task.model.state_dict().items() if not name.startswith("head")))
"""


@pytest.fixture
def folder(tmp_path):
    write_model(random_network(SPEC), tmp_path / "net", Preprocess(20), "net", {})
    (tmp_path / "net" / "timm").mkdir()
    (tmp_path / "net" / "timm" / "README.md").write_text("x")
    return tmp_path / "net"


def python(code: str, hub, home: Path, **variables: str) -> subprocess.CompletedProcess:
    """Run code in a process: huggingface_hub reads its environment once."""
    code = f"from pathlib import Path\nfrom vitas_ds.export.hub import local_folder, push\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT,
        env=os.environ | hub.environment(home) | variables,
    )  # fmt: skip


@pytest.mark.slow
def test_push_then_load(folder, tmp_path):
    with serve_hub() as hub:
        own = dict.fromkeys(("photo.jpg", "eval_results.json", "onnx/other.onnx", "results/a.json"), b"added by hand")
        hub.models["me/net"] = {"model.onnx": b"of other weights"} | own
        done = python(f"print(push(Path({str(folder)!r}), 'me/net', private=True))", hub, tmp_path / "a")
        assert done.returncode == 0 and done.stdout.split()[-1].endswith("/me/net"), done.stderr
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
        assert hub.models["me/net"] == files | own
        assert hub.commits == 1 and hub.created[0]["visibility"] == "private"

        load = (
            f"import torch, vitas_ds\ntorch.save(vitas_ds.load('hf://me/net')({IMAGES}), {str(tmp_path / 'logits')!r})"
        )
        done = python(load, hub, tmp_path / "b")
        assert done.returncode == 0, done.stderr
        images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(5))
        with torch.no_grad():
            expected = vitas_ds.load(folder)(images)
        assert torch.equal(torch.load(tmp_path / "logits"), expected)
        before = hub.downloads
        assert before == 5  # not those of timm/, nor the photo
        done = python(load.replace("hf://me/net", f"hf://me/net@{hub.sha}"), hub, tmp_path / "b")
        assert done.returncode == 0 and hub.downloads == before, done.stderr
    (tmp_path / "logits").unlink()
    offline = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}  # without the hub
    done = python(f"{load}\n{FINE_TUNE}", hub, tmp_path / "b", **offline)
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "logits"), expected)
    weights = random_network(SPEC).state_dict()
    digest = sum(float(value.double().sum()) for name, value in weights.items() if not name.startswith("head"))
    text, total = done.stdout.splitlines()
    assert text.endswith(", with a new head for 6 classes") and float(total) == pytest.approx(digest, rel=1e-12)


@pytest.mark.slow
def test_errors_of_the_hub_are_one_line(folder, tmp_path):
    names = ["hf://me/none", "hf://me/other", "hf://me/other@v9"]
    code = f"""
from vitas_ds.errors import UserError
for name in {names}:
    try:
        local_folder(name)
    except UserError as error:
        print(error)
try:
    push(Path({str(folder)!r}), "me/net")
except UserError as error:
    print(error)
"""
    with serve_hub() as hub:
        hub.models["me/other"] = {"README.md": b"# another program's"}
        done = python(code, hub, tmp_path, HF_TOKEN="hf_wrong")
        assert done.returncode == 0, done.stderr
        none, other, revision, refused = done.stdout.splitlines()
    assert none == "hf://me/none: no such model, or it is private: set HF_TOKEN"
    assert other == "hf://me/other: not a model of vitas_ds: it has no spec.json"
    assert revision == "hf://me/other: no such revision"
    assert refused.startswith("--push-to-hub me/net: ") and "401" in refused
    done = python("local_folder('hf://me/other2')", hub, tmp_path, HF_HUB_OFFLINE="1")
    assert "UserError: hf://me/other2: not in the cache, and the hub cannot be reached" in done.stderr


def test_names(tmp_path):
    assert local_folder(tmp_path) == tmp_path and local_folder("a/b") == Path("a/b")
    assert is_hub_name("hf://a/b") and is_hub_name(Path("hf://a/b")) and not is_hub_name("hf/a")
    for name in ("hf://", "hf://a", "hf://a/b/c", "hf://a/b@", "hf://a b/c"):
        for given in (name, Path(name) if name != "hf://" else name):  # a Path has one slash less
            with pytest.raises(UserError, match=rf"^{name}: must be hf://USER/NAME or hf://USER/NAME@REVISION"):
                local_folder(given)
    with pytest.raises(UserError, match=r"^--push-to-hub a//b: must be NAME or USER/NAME"):
        push(tmp_path, "a//b")


def test_a_hub_that_cannot_be_reached_is_named(folder, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    reason = r"cannot reach the hub \(http://127\.0\.0\.1:1: .*refused.*\); check the network, or set HF_ENDPOINT"
    with pytest.raises(UserError, match=rf"^--push-to-hub me/net: {reason}, then start the same command again$"):
        push(folder, "me/net")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    with pytest.raises(UserError, match=r"^--push-to-hub me/net: HF_HUB_OFFLINE forbids the network; unset it$"):
        push(folder, "me/net")
    close_session()


def test_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # marks it as not installed
    fix = r"huggingface_hub is not installed; pip install -e '\.\[hub\]'$"
    with pytest.raises(UserError, match=rf"^hf://me/net: {fix}"):
        vitas_ds.load("hf://me/net")
    with pytest.raises(UserError, match=rf"^--push-to-hub me/net: {fix}"):
        push(tmp_path, "me/net")
