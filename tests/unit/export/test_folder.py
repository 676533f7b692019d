"""Exported folders: round trip, atomic replacement, and one-line errors for every mismatch."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from hypothesis import given, settings
from safetensors.torch import load_file, save_file

import vitas_ds
from tests.helpers.first_release import FIXTURE, seeded_tensors, write_checkpoint
from tests.helpers.strategies import spaces_and_specs
from vitas_ds.__main__ import main
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.errors import UserError
from vitas_ds.export.card import Accuracy, model_card
from vitas_ds.export.folder import (
    Preprocess,
    atomic_folder,
    check_replaceable,
    read_facts,
    read_preprocess,
    write_model,
)
from vitas_ds.models.layers import init_weights
from vitas_ds.models.vit import VisionTransformer

SPEC = SubnetSpec(16, 8, 10, 4, (LayerSpec(2, 12, 7), LayerSpec(1, 9, 5, 0.4)), 1e-5)
CLASSES = ("ant", "bee | wasp", "Ätna", "yes")


def make(spec: SubnetSpec = SPEC) -> VisionTransformer:
    model = VisionTransformer(spec)
    init_weights(model, 1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
    return model


@pytest.fixture
def folder(tmp_path):
    write_model(make(), tmp_path / "net", Preprocess(20, classes=CLASSES), "net", {"epochs": 3})
    return tmp_path / "net"


@settings(max_examples=25)
@given(spaces_and_specs())
def test_round_trip(tmp_path_factory, space_and_spec):
    spec = space_and_spec[1]
    directory = tmp_path_factory.mktemp("any") / "net"
    model = make(spec).eval()
    write_model(model, directory, Preprocess(), "any", {})
    loaded = vitas_ds.load(directory)
    assert not loaded.training and loaded.spec == spec.canonical()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    images = torch.randn(3, 3, spec.image_size, spec.image_size)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


def test_folder_of_a_half_precision_model_is_float32(tmp_path):
    write_model(make().bfloat16(), tmp_path / "net", Preprocess(), "net", {})
    assert {value.dtype for value in load_file(tmp_path / "net" / "model.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize(("dtype", "atol"), [(torch.bfloat16, 0.1), (torch.float16, 0.01), (torch.float64, 1e-5)])
def test_loaded_model_in_another_precision(folder, dtype, atol):
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = vitas_ds.load(folder)(images)
        found = vitas_ds.load(folder).to(dtype)(images)  # the images may be float32
    assert found.dtype == dtype and expected.abs().max() > 1
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=atol)


def test_imported_first_release_round_trips(tmp_path, capsys):
    checkpoint = write_checkpoint(tmp_path / "a.pth.tar", seeded_tensors("vitas-c"))
    assert main(["import", "--net", "vitas-c", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "c")]) == 0
    model = vitas_ds.load(tmp_path / "c")
    assert model.spec.final_norm_eps == 1e-5 and model.spec.active[0].softmax_scale is not None
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        logits = model(images)
    expected = torch.tensor(FIXTURE["vitas-c"]["logits"])
    torch.testing.assert_close(logits[:, : expected.shape[1]], expected, rtol=0, atol=1e-4)
    write_model(model, tmp_path / "again", Preprocess(), "again", read_facts(tmp_path / "c"))
    for name in ("model.safetensors", "spec.json", "config.json", "preprocess.json"):
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def _change_spec(folder, **fields):
    data = json.loads((folder / "spec.json").read_text())
    (folder / "spec.json").write_text(json.dumps(data | fields))


def _change_tensors(folder, change):
    values = load_file(folder / "model.safetensors")
    change(values)
    save_file(values, folder / "model.safetensors")


def forget_digests(folder):
    """Make the folder one of another program, which writes no digests."""
    config = json.loads((folder / "config.json").read_text())
    del config["sha256"]
    (folder / "config.json").write_text(json.dumps(config))


MISMATCHES = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "no folder": (lambda f: f.rename(f.with_name("elsewhere")), "not an exported model"),
    "no spec": (lambda f: (f / "spec.json").unlink(), "spec.json: no such spec file"),
    "spec is not JSON": (lambda f: (f / "spec.json").write_text("{"), "spec.json: not a JSON file"),
    "spec of another width": (
        lambda f: _change_spec(f, embed_dim=12),
        "cls_token has shape [1, 1, 10], expected [1, 1, 12]",
    ),
    "spec of a huge network": (lambda f: _change_spec(f, embed_dim=60_000), "cls_token has shape [1, 1, 10]"),
    "spec outside of all bounds": (lambda f: _change_spec(f, embed_dim=10**12), "embed_dim: Input should be less than"),
    "spec with fewer layers": (
        lambda f: _change_spec(f, layers=[{"num_heads": 2, "qkv_dim": 12, "mlp_dim": 7}]),
        "unexpected tensor blocks.1.",
    ),
    "a tensor is missing": (lambda f: _change_tensors(f, lambda t: t.pop("head.bias")), "head.bias is missing"),
    "a tensor of integers": (
        lambda f: _change_tensors(f, lambda t: t.update({"norm.bias": t["norm.bias"].to(torch.int8)})),
        "norm.bias is int8",
    ),
    "weights truncated": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
        "not a safetensors file, or damaged",
    ),
    "weights empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "not a safetensors file"),
}


@pytest.mark.parametrize("kind", MISMATCHES)
def test_mismatches_are_one_line_errors(folder, kind):
    damage, text = MISMATCHES[kind]
    forget_digests(folder)
    damage(folder)
    with pytest.raises(UserError) as error:
        vitas_ds.load(folder)
    assert text in str(error.value) and str(folder) in str(error.value) and "\n" not in str(error.value)


def _flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


CHANGES = {
    "a flipped byte of a weight": (
        lambda f: _flip(f / "model.safetensors", -5),
        "model.safetensors was changed after the export",
    ),
    "a flipped byte of the header": (lambda f: _flip(f / "model.safetensors", 30), "model.safetensors was changed"),
    "a spec of another network": (lambda f: _change_spec(f, final_norm_eps=1e-6), "spec.json was changed after the"),
    "no spec": (lambda f: (f / "spec.json").unlink(), "spec.json is missing; restore it"),
    "no digests": (lambda f: (f / "config.json").write_text(""), "config.json: damaged, it has the digests"),
    "other digests": (lambda f: (f / "config.json").write_text('{"sha256": 3}'), "config.json: damaged"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_changed_files_are_found(folder, kind):
    damage, text = CHANGES[kind]
    vitas_ds.load(folder)
    damage(folder)
    with pytest.raises(UserError) as error:
        vitas_ds.load(folder)
    assert text in str(error.value) and str(folder) in str(error.value) and "\n" not in str(error.value)


def test_a_changed_preprocessing_is_found(folder):
    path = folder / "preprocess.json"
    for text in ("{}", path.read_text().replace("20", "21")):
        path.write_text(text)
        with pytest.raises(UserError, match=rf"^{path} was changed after the export: its SHA-256 does not match"):
            read_preprocess(folder)
    path.unlink()
    with pytest.raises(UserError, match=rf"^{path} is missing; restore it, or export the model again$"):
        read_preprocess(folder)


def test_weights_must_be_finite(folder):
    forget_digests(folder)
    _change_tensors(folder, lambda t: t["norm.bias"].fill_(torch.nan))
    with pytest.raises(UserError, match=r"model.safetensors: tensor norm.bias contains non-finite values$"):
        vitas_ds.load(folder)


class Trap:
    """A pickle that creates a folder if it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickles_are_not_loaded(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    torch.save({"x": Trap(tmp_path / "sprung")}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        vitas_ds.load(folder)
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    forget_digests(folder)
    with pytest.raises(UserError, match="not a safetensors file"):
        vitas_ds.load(folder)
    assert not (tmp_path / "sprung").exists()


def test_preprocess(folder):
    assert read_preprocess(folder) == Preprocess(20, classes=CLASSES)
    path = folder / "preprocess.json"
    forget_digests(folder)
    for text, message in (
        ("{", "Invalid JSON"), ("[]", "object"), ('{"resize": "big"}', "resize"), ('{"std": [1, 2]}', "std.2"),
        ('{"std": [0, 1, 1]}', "std must be greater than 0"), ('{"resize": 0}', "resize"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(UserError) as error:
            read_preprocess(folder)
        assert str(path) in str(error.value) and message in str(error.value) and "\n" not in str(error.value)
    path.unlink()
    with pytest.warns(UserWarning, match=r"preprocess\.json is missing"):
        assert read_preprocess(folder) == Preprocess()


def test_config_for_hubs(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {str(i): name for i, name in enumerate(CLASSES)}
    assert (config["image_size"], config["num_classes"], config["depth"]) == (16, 4, 2)
    assert read_facts(folder) == {"epochs": 3}
    for text in ("{}", "[]", '{"facts": 1}', "{"):
        (folder / "config.json").write_text(text)
        assert read_facts(folder) == {}


def test_folder_is_replaced_atomically(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "timm").mkdir()
    (folder / "timm" / "old.txt").write_text("of the previous model")

    def fail() -> None:
        with atomic_folder(folder) as aside:
            (aside / "half.txt").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert {path.name for path in folder.iterdir()} == set(before) | {"timm"}
    write_model(make(), folder, Preprocess(20, classes=CLASSES), "net", {"epochs": 3})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["net"]


@pytest.mark.parametrize("links", [True, False])
def test_files_of_the_user_stay(folder, monkeypatch, links):
    """Also on a disk without hard links."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("no hard links")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    (folder / "demo" / "deep").mkdir(parents=True)
    (folder / "demo" / "deep" / "app.py").write_text("print()")
    (folder / "NOTES.md").write_text("notes")
    (folder / "broken").symlink_to("nowhere")
    write_model(make(replace(SPEC, num_classes=3)), folder, Preprocess(), "net", {})
    assert (folder / "demo" / "deep" / "app.py").read_text() == "print()" and (
        folder / "NOTES.md"
    ).read_text() == "notes"
    assert (folder / "broken").is_symlink() and vitas_ds.load(folder).spec.num_classes == 3
    assert [path.name for path in folder.parent.iterdir()] == ["net"]


def test_folders_that_are_not_replaced(folder, tmp_path, monkeypatch):
    (folder / "NOTES.md").write_text("notes")
    check_replaceable(folder)
    check_replaceable(tmp_path / "new")
    (tmp_path / "thesis").mkdir()
    check_replaceable(tmp_path / "thesis")
    (tmp_path / "thesis" / "thesis.tex").write_text("text")
    with pytest.raises(UserError, match=r"thesis: is not an exported model \(it has thesis\.tex\)"):
        check_replaceable(tmp_path / "thesis")
    monkeypatch.chdir(folder)
    for place in (Path("."), folder, folder.parent):
        with pytest.raises(UserError, match="contains the current folder"):
            check_replaceable(place)


def test_permissions_links_and_unwritable_places(folder, tmp_path):
    """Permissions follow the umask, a symbolic link is followed, and an unwritable place is a one-line error."""
    modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}
    (tmp_path / "probe").touch()
    assert modes == {(tmp_path / "probe").stat().st_mode & 0o777}
    (tmp_path / "link").symlink_to(folder)
    write_model(make(replace(SPEC, num_classes=3)), tmp_path / "link", Preprocess(), "net", {})
    assert (tmp_path / "link").is_symlink() and vitas_ds.load(folder).spec.num_classes == 3
    with pytest.raises(UserError, match=r"probe/net: cannot be written"):
        write_model(make(), tmp_path / "probe" / "net", Preprocess(), "net", {})


def test_a_killed_process_leaves_the_old_folder(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code = (
        "import os, sys; from pathlib import Path; from vitas_ds.export.folder import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1])) as aside: (aside / 'half').write_text('half'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder)], timeout=60).returncode == 9
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    write_model(make(replace(SPEC, num_classes=3)), folder, Preprocess(), "other", {})
    assert vitas_ds.load(folder).spec.num_classes == 3
    assert [path.name for path in folder.parent.iterdir()] == ["net"]


def test_a_kill_between_the_renames_loses_no_folder(folder):
    """Also if the next call fails."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code = (
        "import os, sys; from pathlib import Path; from vitas_ds.export.folder import atomic_folder\n"
        "def kill(event, args):\n"
        "    if event == 'os.rename' and str(args[0]).endswith('.tmp'): os._exit(9)\n"
        "sys.addaudithook(kill)\n"
        "with atomic_folder(Path(sys.argv[1])) as aside: (aside / 'new').write_text('new')"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder)], timeout=60).returncode == 9
    assert sorted(path.name for path in folder.parent.iterdir()) == [".net.old", ".net.tmp"]

    def fail() -> None:
        with atomic_folder(folder):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["net"]


def test_card_is_valid_and_claims_no_accuracy(folder):
    card = ModelCard((folder / "README.md").read_text())
    header = card.data.to_dict()
    assert (header["license"], header["library_name"]) == ("apache-2.0", "vitas_ds")
    assert card.data.pipeline_tag == "image-classification" and card.data.eval_results is None
    assert f"| MACs of an image | {spec_macs(SPEC):,} |" in card.text and "| epochs | 3 |" in card.text
    count = sum(weight.numel() for weight in make().parameters())
    assert f"| parameters | {count:,} |" in card.text


def test_card_with_an_accuracy():
    accuracy = Accuracy("imagenet: val", 50_000, 0.747, 0.9213)
    text = model_card(SPEC, "a: 'b' #1", {"odd": "a|b\nc"}, accuracy, {"`model.onnx`": "opset 20"}, "mit")
    card = ModelCard(text)
    assert card.data.license == "mit" and card.data.model_name == "a: 'b' #1"
    assert [(r.dataset_name, r.metric_type, r.metric_name, r.metric_value) for r in card.data.eval_results] == [
        ("imagenet: val", "accuracy", "top-1 accuracy", 0.747),
        ("imagenet: val", "accuracy", "top-5 accuracy", 0.9213),
    ]
    assert "| odd | a\\|b c |" in text and "| `model.onnx` | opset 20 |" in text
