"""Import from timm: the logits of timm's own classes for random weights, and one-line errors for everything else."""

import argparse
import os
import re
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.helpers.timm_networks import FAMILIES, SMALL, make, randomize
from vitas_ds.arch.cost import spec_macs, spec_params
from vitas_ds.arch.spec import spec_from_dict
from vitas_ds.engine.precision import autocast
from vitas_ds.errors import UserError
from vitas_ds.export.folder import Preprocess, read_model, write_model
from vitas_ds.export.from_timm import _preprocess, adapt, convert, create, import_timm
from vitas_ds.export.timm_architecture import spec_of
from vitas_ds.export.to_onnx import check_logits, trace
from vitas_ds.export.to_timm import build_timm, to_timm, write_timm
from vitas_ds.models.execute import execute

NAME = "deit_tiny_patch16_224"


def images(count: int = 3, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(7))


def difference(model, reference, dtype=torch.float32) -> float:
    """Return the largest difference in logits, as a fraction of the largest logit."""
    x = images().to(dtype)
    with torch.no_grad():
        found, expected = model.to(dtype)(x), reference.to(dtype)(x)
    assert expected.std() > 0.1
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_timm(family):
    reference = make(family)
    assert difference(convert(reference, reference.state_dict()), reference) < 1e-5
    double = reference.double()
    model = convert(double, double.state_dict())
    assert model.pos_embed.dtype == torch.float64
    assert difference(model, double, torch.float64) < 1e-12
    assert spec_from_dict(model.spec.to_dict()) == model.spec


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_matters(family):
    """A forgotten tensor would leave the logits as they are."""
    reference = make(family)
    model = convert(reference, reference.state_dict())
    for name, weight in model.named_parameters():
        before = weight.detach().clone()
        with torch.no_grad():
            weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        assert difference(model, reference) > 1e-3, name
        with torch.no_grad():
            weight.copy_(before)
    assert difference(model, reference) < 1e-5


@pytest.mark.parametrize("family", ["deit", "distilled deit", "dinov2 with registers", "vit with fc_norm"])
def test_mutants_differ(family):
    """eps 1e-5 instead of 1e-6, and another softmax scale."""
    reference = make(family).double()
    model = convert(reference, reference.state_dict())
    right = model.spec
    for change in ({"norm_eps": 1e-5}, {"final_norm_eps": 1e-5}):
        model.spec = replace(right, **change)
        assert difference(model, reference, torch.float64) > 1e-9, change
    model.spec = right
    for block in model.blocks:
        block.layer = replace(block.layer, softmax_scale=block.layer.attn_dim**-0.5)
    assert difference(model, reference, torch.float64) > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_costs_are_those_of_the_network(family):
    reference = make(family)
    model = convert(reference, reference.state_dict())
    assert spec_params(model.spec) == sum(p.numel() for p in model.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        reference(images(1))
    assert counter.get_total_flops() == 2 * spec_macs(model.spec)


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_and_bf16_networks_compute_the_same(family):
    """GPUs pad to a multiple of 8: here of 5 and 64, which are not the width of any dimension."""
    reference = make(family)
    model, x = convert(reference, reference.state_dict()), images()
    with torch.no_grad():
        expected = reference(x)
        for multiple in (5, 64):
            found = execute(x, model._spec(), model._options(), model._stored(multiple), torch.float32)[0]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        with autocast("bf16", x.device):
            assert (model(x).float() - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize("family", ["distilled deit", "dinov2 with registers", "vit with fc_norm"])
def test_gradients_are_those_of_timm(family):
    """In training mode too, where timm returns both logits of a distilled network only on request."""
    reference = make(family)
    model, x = convert(reference, reference.state_dict()).train(), images()
    model.class_token_only = True
    model(x).square().sum().backward()
    reference.train()(x).square().sum().backward()
    expected = dict(reference.named_parameters())
    for name, weight in model.named_parameters():
        if name not in ("cls_token", "pos_embed"):
            other = expected[name if name in expected else f"fc_{name}"].grad
            torch.testing.assert_close(weight.grad, other, rtol=1e-3, atol=1e-4 * other.abs().max().item())


@pytest.mark.parametrize("family", FAMILIES)
def test_back_to_timm_restores_every_tensor(family):
    reference = make(family)
    back = to_timm(convert(reference, reference.state_dict()))
    assert type(build_timm(back)).__name__ == type(reference).__name__
    expected = reference.state_dict()
    for name, value in back.tensors.items():
        zero = family == "vit without biases" and name not in expected
        assert not value.any() if zero else torch.equal(value, expected[name]), name
    assert set(expected) <= set(back.tensors)


@pytest.mark.parametrize("family", ["distilled deit", "dinov2 with registers", "vit with fc_norm"])
def test_timm_builds_the_network_from_its_folder(family, tmp_path):
    reference = make(family)
    write_timm(convert(reference, reference.state_dict()), tmp_path / "timm", Preprocess(resize=37))
    other = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    assert difference(other, reference) == 0


@pytest.mark.parametrize("family", ["distilled deit", "dinov2 with registers", "vit with fc_norm"])
def test_exported_folders_and_graphs(family, tmp_path):
    reference = make(family)
    model = convert(reference, reference.state_dict())
    write_model(model, tmp_path / "model", Preprocess(), "net", {})
    loaded = read_model(tmp_path / "model")
    assert loaded.spec == model.spec and difference(loaded, model) == 0
    check_logits(loaded, trace(loaded).module(), "trace")


def test_positions_for_another_size_are_those_of_timm():
    for family in ("deit", "distilled deit", "dinov2 with registers"):
        reference = make(family)
        model = adapt(convert(reference, reference.state_dict()), image_size=56)
        reference.set_input_size(img_size=(56, 56))
        x = images(2, 56)
        with torch.no_grad():
            torch.testing.assert_close(model(x), reference(x), rtol=1e-5, atol=1e-5)


def test_a_new_classifier_keeps_the_rest():
    reference = make("distilled deit")
    old = convert(reference, reference.state_dict())
    new = adapt(old, num_classes=7)
    assert new(images()).shape == (3, 7) and new.spec.num_classes == 7
    same = [name for name, value in new.state_dict().items() if torch.equal(value, old.state_dict().get(name))]
    assert set(new.state_dict()) - set(same) == {f"{h}.{k}" for h in ("head", "head_dist") for k in ("weight", "bias")}
    assert 0.015 < new.head.weight.std() < 0.025 and not torch.equal(new.head.weight, new.head_dist.weight)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vit_small_patch16_dinov3", "rotary position embeddings"),
        ("swin_tiny_patch4_window7_224", "windows"),
        ("vit_base_patch16_clip_224", "a norm before the first layer (pre_norm)"),
        ("vit_giant_patch14_dinov2", "a gated MLP (SwiGLU) (layer 0)"),
        ("vit_small_patch16_18x2_224", "parallel blocks (layer 0)"),
        ("vit_medium_patch16_gap_240", "no class token"),
        ("beit_base_patch16_224", "a relative position bias"),
        ("resnet50", "the architecture ResNet"),
    ],
)
def test_unsupported_networks_are_refused_by_name(name, reason):
    with pytest.raises(UserError, match=re.escape(f"timm:{name}: has {reason}, which is not supported")):
        spec_of(create(name, None), name)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"qk_norm": True}, "qk_norm (layer 0)"),
        ({"scale_attn_norm": True}, "a norm inside of attention or MLP (layer 0)"),
        ({"act_layer": "silu"}, "the activation SiLU"),
        ({"act_layer": "gelu_tanh"}, "the activation GELUTanh"),
        ({"norm_layer": "rmsnorm"}, "norms of the kind RmsNorm"),
        ({"attn_layer": "diff"}, "differential attention (layer 0)"),
        ({"global_pool": "map"}, "attention pooling"),
        ({"global_pool": "max"}, "pooling 'max'"),
        ({"global_pool": "avg", "fc_norm": False}, "average pooling after the final norm"),
        ({"pos_embed": "none"}, "no position embedding"),
        ({"in_chans": 1}, "1 image channels"),
        ({"img_size": (32, 64)}, "images or patches that are not square"),
    ],
)
def test_unsupported_options_are_refused_by_name(options, reason):
    with torch.device("meta"):
        model = timm.create_model("vit_small_patch16_224", **SMALL | options)
    with pytest.raises(UserError, match=re.escape(f"timm:x: has {reason}")):
        spec_of(model, "x")


@pytest.fixture(scope="module")
def deit():
    return randomize(timm.create_model(NAME, pretrained=False))


@pytest.mark.parametrize("kind", ["safetensors", "state dict", "model", "timm"])
def test_files(kind, deit, tmp_path):
    path, tensors = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth"), deit.state_dict()
    if kind == "safetensors":
        save_file(tensors, path)
    elif kind == "timm":  # the checkpoint of timm's own training; averages come first
        zeros = {name: torch.zeros_like(value) for name, value in tensors.items()}
        averaged = {f"module.{name}": value for name, value in tensors.items()}
        content = {"state_dict": zeros, "state_dict_ema": averaged, "args": argparse.Namespace(lr=1), "metric": 1.0}
        torch.save(content, path)
    else:
        torch.save(tensors if kind == "state dict" else {"model": tensors}, path)
    found = import_timm(NAME, path)
    assert all(torch.equal(value, tensors[name]) for name, value in found.model.state_dict().items())
    assert found.preprocess == Preprocess(248, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert found.license == "unknown" and import_timm(f"{NAME}.fb_in1k", path).license != ""
    assert ("averaged" in str(found.facts["weights"])) == (kind == "timm")


def test_weights_with_fc_norm_read_the_mean_of_the_patches(tmp_path):
    reference = randomize(timm.create_model("vit_tiny_patch16_224", pretrained=False, global_pool="avg", depth=12))
    torch.save(reference.state_dict(), tmp_path / "w.pth")
    found = import_timm("vit_tiny_patch16_224", tmp_path / "w.pth")
    x = images(1, 224)
    with torch.no_grad():
        torch.testing.assert_close(found.model(x), reference(x), rtol=0, atol=1e-4)
    assert found.preprocess.mean == (0.5, 0.5, 0.5)


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


QKV = "blocks.3.attn.qkv.weight"


def without(tensors):
    return {name: value for name, value in tensors.items() if name != QKV}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without, f"missing tensors: {QKV}"),
        (lambda t: without(t) | {"blocks.3.attn.qkv_weight": t[QKV]},
         f"missing tensors: {QKV}; the closest one in the file is blocks.3.attn.qkv_weight"),
        (lambda t: t | {"blocks.12.norm1.weight": torch.zeros(192)}, "unexpected tensors: blocks.12.norm1.weight"),
        (lambda t: t | {QKV: torch.zeros(576, 191)}, f"tensor {QKV} has shape [576, 191], expected [576, 192]"),
        (lambda t: t | {QKV: t[QKV].half()}, f"tensor {QKV} is float16; half-precision"),
        (lambda t: t | {QKV: t[QKV].char()}, f"tensor {QKV} is int8; half-precision"),
        (lambda t: t | {QKV: t[QKV] * float("nan")}, f"tensor {QKV} contains non-finite values"),
        (lambda t: {k: v for k, v in t.items() if "head" not in k}, "has no classifier; give the number of classes"),
        (lambda t: {"model": t, "more": Code("ran")}, "contains objects other than tensors"),
        (lambda t: [1, 2], "not a state dict"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_one_line(change, message, deit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # code in the file would create a folder
    path = tmp_path / "w.pth"
    torch.save(change(dict(deit.state_dict())), path)
    with pytest.raises(UserError) as error:
        import_timm(NAME, path)
    line = str(error.value)
    assert message in line and line.startswith(str(path)) and "\n" not in line and len(line) < 400, line
    assert list(tmp_path.iterdir()) == [path]


def test_unknown_names_suggest_the_closest():
    with pytest.raises(UserError, match="has no such network; the closest one is deit_tiny_patch16_224"):
        create("deit_tiny_patch16_22", None)


def test_another_interpolation_or_crop_is_a_warning():
    with pytest.warns(UserWarning) as found:
        preprocess = _preprocess({"interpolation": "bilinear", "crop_mode": "squash", "crop_pct": 0.95}, 224, "x")
    assert [str(w.message) for w in found] == [
        "timm:x: timm evaluates it with interpolation bilinear, this project with bicubic",
        "timm:x: timm evaluates it with crop_mode squash, this project with center",
    ]
    assert preprocess.resize == 235
