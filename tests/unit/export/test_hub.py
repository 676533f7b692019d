"""Push to a hub and load from it, through huggingface_hub itself and over HTTP.

References: the exported folder and its logits.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vitas_ds
from tests.helpers.hub import serve_hub
from tests.helpers.networks import random_network
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.errors import UserError
from vitas_ds.export.folder import Preprocess, write_model
from vitas_ds.export.hub import is_hub_name, local_folder, push

SPEC = SubnetSpec(16, 8, 10, 4, (LayerSpec(2, 12, 7), LayerSpec(1, 9, 5)))
IMAGES = "torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(5))"


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
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
        env=os.environ | hub.environment(home) | variables,
    )  # fmt: skip


@pytest.mark.slow
def test_push_then_load(folder, tmp_path):
    with serve_hub() as hub:
        hub.models["me/net"] = {"model.onnx": b"of other weights", "photo.jpg": b"added by hand"}
        done = python(f"print(push(Path({str(folder)!r}), 'me/net', private=True))", hub, tmp_path / "a")
        assert done.returncode == 0 and done.stdout.split()[-1].endswith("/me/net"), done.stderr
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
        assert hub.models["me/net"] == files | {"photo.jpg": b"added by hand"}
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
    done = python(load, hub, tmp_path / "b", HF_HUB_OFFLINE="1")  # without the hub
    assert done.returncode == 0, done.stderr


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
        with pytest.raises(UserError, match="must be hf://USER/NAME or hf://USER/NAME@REVISION"):
            local_folder(name)
    with pytest.raises(UserError, match=r"^--push-to-hub a//b: must be NAME or USER/NAME"):
        push(tmp_path, "a//b")


def test_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # marks it as not installed
    fix = r"huggingface_hub is not installed; pip install -e '\.\[hub\]'$"
    with pytest.raises(UserError, match=rf"^hf://me/net: {fix}"):
        vitas_ds.load("hf://me/net")
    with pytest.raises(UserError, match=rf"^--push-to-hub me/net: {fix}"):
        push(tmp_path, "me/net")
