"""The plain network against timm, and its number of parameters."""

import pytest
import timm
import torch
from hypothesis import given, settings

from tests.helpers.strategies import spaces_and_specs
from vitas_ds.arch.cost import params
from vitas_ds.arch.published import names, published
from vitas_ds.arch.space import WidthTable
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.engine.precision import autocast
from vitas_ds.errors import UserError
from vitas_ds.models.vit import VisionTransformer

TIMM = {"deit-ti": "deit_tiny_patch16_224", "deit-s": "deit_small_patch16_224"}


def randomize(model: torch.nn.Module) -> torch.nn.Module:
    """Set all values to random ones, scaled to keep the softmax far from uniform and from one-hot."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            value = torch.randn(weight.shape, generator=generator)
            weight.copy_(1 + 0.1 * value if "norm" in name and "weight" in name else 0.05 * value)
    return model.eval()


@pytest.mark.parametrize("name", TIMM)
def test_deit_matches_timm(name):
    reference = randomize(timm.create_model(TIMM[name], pretrained=False))
    model = VisionTransformer(published(name).spec).eval()
    model.load_state_dict(reference.state_dict())  # equal names and shapes
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        actual, expected = model(images), reference(images)
    print("largest difference", (actual - expected).abs().max().item(), "logits up to", expected.abs().max().item())
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(spaces_and_specs())
def test_params_counts_the_parameters_of_random_networks(space_and_spec):
    _, spec = space_and_spec
    assert (
        sum(weight.numel() for weight in VisionTransformer(spec).parameters())
        == params(WidthTable.from_specs([spec]))[0]
    )


@pytest.mark.parametrize("name", names())
def test_params_counts_the_parameters_of_published_networks(name):
    with torch.device("meta"):
        model = VisionTransformer(published(name).spec)
    assert (
        sum(weight.numel() for weight in model.parameters()) == params(WidthTable.from_specs([published(name).spec]))[0]
    )


def test_identity_positions_do_not_change_the_output():
    a, b = LayerSpec(2, 96, 192), LayerSpec(4, 192, 96)
    with_identities = VisionTransformer(SubnetSpec(32, 8, 48, 10, (None, a, None, b, None)))
    without = VisionTransformer(SubnetSpec(32, 8, 48, 10, (a, b)))
    without.load_state_dict(randomize(with_identities).state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(with_identities(images), without.eval()(images))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_bound_network_computes_the_same(precision):
    spec = SubnetSpec(32, 8, 48, 10, (LayerSpec(2, 96, 192), LayerSpec(4, 192, 96)))
    model, images = randomize(VisionTransformer(spec)), torch.randn(2, 3, 32, 32)
    with torch.inference_mode(), autocast(precision, images.device):
        bound, expected = model.bind(), model(images)
        assert torch.equal(bound(images), expected) and torch.equal(bound(images[:1]), model(images[:1]))


def test_grad_checkpointing_gives_equal_gradients():
    spec = SubnetSpec(32, 8, 48, 10, (LayerSpec(2, 96, 192), LayerSpec(4, 192, 96)))
    images, grads = torch.randn(2, 3, 32, 32), []
    for recompute in (False, True):
        model = randomize(VisionTransformer(spec, drop_path_rate=0.3, grad_checkpointing=recompute)).train()
        torch.manual_seed(3)  # the recomputation must draw the same drop path
        model(images).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_final_norm_eps_is_that_of_the_spec():
    spec = SubnetSpec(32, 8, 48, 10, (LayerSpec(2, 96, 192),), final_norm_eps=1e-5)
    model = VisionTransformer(spec)
    assert (model.norm.eps, model.blocks[0].norm1.eps, model.blocks[0].norm2.eps) == (1e-5, 1e-6, 1e-6)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (SubnetSpec(32, 7, 48, 10, (LayerSpec(2, 96, 192),)), "image_size 32 is not a multiple of patch_size 7"),
        (SubnetSpec(32, 8, 48, 10, (LayerSpec(5, 96, 192),)), "layers[0].qkv_dim 96 is not a multiple of 3 *"),
    ],
)
def test_invalid_specs_are_errors(spec, message):
    with pytest.raises(UserError) as error:
        VisionTransformer(spec)
    assert message in str(error.value)


@pytest.mark.parametrize("compiling", [False, True])
def test_autocast_sets_the_dtype_of_eager_and_compiled_networks(compiling, monkeypatch):
    model = randomize(VisionTransformer(SubnetSpec(32, 8, 48, 10, (LayerSpec(2, 96, 192),))))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model(torch.randn(2, 3, 32, 32)).dtype == torch.bfloat16


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_memory_formats_and_new_heads_are_respected(precision):
    """Users convert a model to channels_last, or replace its head for fine-tuning."""
    model = randomize(VisionTransformer(SubnetSpec(32, 8, 48, 10, (LayerSpec(2, 96, 192),))))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", precision, enabled=precision != torch.float32):
        expected = model(images)
        model.to(memory_format=torch.channels_last)
        assert torch.equal(model(images), expected)
        weight, bias = model.head.weight, model.head.bias
        for classes in (3, 13):
            model.head = torch.nn.Linear(48, classes)
            with torch.no_grad():
                model.head.weight[:3], model.head.bias[:3] = weight[:3], bias[:3]
            assert model(images).shape == (2, classes)
            torch.testing.assert_close(model(images)[:, :3], expected[:, :3], rtol=1e-2, atol=1e-2)
