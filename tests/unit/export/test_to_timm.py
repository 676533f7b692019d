"""Conversion to timm: logits equal those of timm's VisionTransformer."""

import os

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.networks import random_network
from vitas_ds.arch.published import names, published
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.errors import UserError
from vitas_ds.export.folder import Preprocess
from vitas_ds.export.to_timm import build_timm, to_timm, write_timm
from vitas_ds.models.vit import VisionTransformer


def compare(model: VisionTransformer, other: torch.nn.Module, atol: float = 1e-4) -> None:
    size = model.spec.image_size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        expected, found = model(images), other(images)
    print("largest difference", (expected - found).abs().max().item(), "of", expected.abs().max().item())
    assert expected.std() > 0.1
    torch.testing.assert_close(expected, found, rtol=1e-4, atol=atol)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([1, 2, 3, 4]),
    st.integers(1, 6),
    st.integers(1, 40),
    st.integers(1, 60),
    st.integers(1, 3),
    st.sampled_from([None, 0.05, 0.4, 1.3]),
    st.sampled_from([1e-6, 1e-5]),
)
def test_any_network_with_identical_layers(heads, head_dim, embed_dim, mlp_dim, depth, scale, eps):
    layer = LayerSpec(heads, 3 * heads * head_dim, mlp_dim, scale)
    model = random_network(SubnetSpec(16, 8, embed_dim, 10, (layer,) * depth, eps))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    converted = to_timm(model)
    other = build_timm(converted)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(images), other(images), rtol=1e-4, atol=1e-4)
    assert isinstance(other, timm.models.vision_transformer.VisionTransformer)
    assert int(embed_dim * converted.kwargs["mlp_ratio"]) == mlp_dim
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["deit-ti", "vitas-c"])
def test_published_networks_with_identical_layers(name):
    model = random_network(published(name, first_release=True).spec)
    converted = to_timm(model)
    assert converted.plain == (name == "deit-ti")
    assert (converted.head_dim, converted.final_norm_eps) == ((None, None) if name == "deit-ti" else (48, 1e-5))
    compare(model, build_timm(converted), atol=1e-3)


def test_weights_with_the_default_scale_do_not_change():
    model = random_network(published("deit-ti").spec)
    converted = to_timm(model)
    assert converted.kwargs["mlp_ratio"] == 4.0
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in converted.tensors.items())


@pytest.mark.parametrize("name", [n for n in names() if n not in ("vitas-c", "deit-ti", "deit-s")])
def test_networks_with_different_layers_are_refused(name):
    with torch.device("meta"):
        model = VisionTransformer(published(name).spec)
    message = r"requires identical layers, but layers\[1\]\.\w+ is \d+ and layers\[0\]"
    with pytest.raises(UserError, match=message) as error:
        to_timm(model)
    assert "\n" not in str(error.value)


PLAIN = SubnetSpec(32, 8, 48, 7, (LayerSpec(4, 144, 100),) * 3)
OWN = SubnetSpec(32, 8, 46, 7, (LayerSpec(3, 72, 100, 0.3),) * 3, 1e-5)


def test_timm_builds_a_plain_network_from_the_folder(tmp_path):
    model = random_network(PLAIN)
    write_timm(model, tmp_path / "timm", Preprocess(resize=37, mean=(0.5, 0.4, 0.3), classes=("a",) * 7))
    other = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    compare(model, other)
    data = timm.data.resolve_data_config(model=other)
    assert (data["input_size"], data["interpolation"], list(data["mean"])) == ((3, 32, 32), "bicubic", [0.5, 0.4, 0.3])
    transform = timm.data.create_transform(**data, is_training=False)
    assert transform.transforms[0].size in (37, (37, 37))


@pytest.mark.parametrize("spec", [PLAIN, OWN])
def test_the_readme_builds_the_network(spec, tmp_path, monkeypatch):
    model = random_network(spec)
    write_timm(model, tmp_path, Preprocess())
    assert (tmp_path / "config.json").exists() == (spec is PLAIN)
    code = (tmp_path / "README.md").read_text().split("```")[1].removeprefix("python\n")
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(code.replace("path/to/this/folder", os.getcwd()), scope)
    compare(model, scope["model"])
