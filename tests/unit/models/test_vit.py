"""The plain network against timm's, and its counted parameters."""

import pytest
import timm
import torch
from hypothesis import given, settings

from tests.helpers.strategies import spaces_and_specs
from vitas_ds.arch.cost import params
from vitas_ds.arch.published import names, published
from vitas_ds.arch.space import WidthTable
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.errors import UserError
from vitas_ds.models.vit import VisionTransformer

TIMM = {"deit-ti": "deit_tiny_patch16_224", "deit-s": "deit_small_patch16_224"}


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Every value random, norms and biases too, of a size that keeps the softmax far from even and from one-hot."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            value = torch.randn(weight.shape, generator=generator)
            weight.copy_(1 + 0.1 * value if "norm" in name and "weight" in name else 0.05 * value)
    return model.eval()


@pytest.mark.parametrize("name", TIMM)
def test_deit_is_timms(name):
    reference = randomise(timm.create_model(TIMM[name], pretrained=False))
    model = VisionTransformer(published(name).spec).eval()
    model.load_state_dict(reference.state_dict())  # the same names and shapes, none left over
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        ours, theirs = model(images), reference(images)
    print("largest difference", (ours - theirs).abs().max().item(), "of logits up to", theirs.abs().max().item())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(spaces_and_specs())
def test_counted_parameters_are_the_networks(space_and_spec):
    _, spec = space_and_spec
    assert sum(weight.numel() for weight in VisionTransformer(spec).parameters()) == params(WidthTable.from_specs([spec]))[0]


@pytest.mark.parametrize("name", names())
def test_counted_parameters_of_the_published_nets(name):
    with torch.device("meta"):
        model = VisionTransformer(published(name).spec)
    assert sum(weight.numel() for weight in model.parameters()) == params(WidthTable.from_specs([published(name).spec]))[0]


def test_identity_layers_make_no_difference():
    a, b = LayerSpec(2, 96, 192), LayerSpec(4, 192, 96)
    with_gaps = VisionTransformer(SubnetSpec(32, 8, 48, 10, (None, a, None, b, None)))
    without = VisionTransformer(SubnetSpec(32, 8, 48, 10, (a, b)))
    without.load_state_dict(randomise(with_gaps).state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(with_gaps(images), without.eval()(images))


def test_recomputed_blocks_give_the_same_gradients():
    spec = SubnetSpec(32, 8, 48, 10, (LayerSpec(2, 96, 192), LayerSpec(4, 192, 96)))
    images, grads = torch.randn(2, 3, 32, 32), []
    for recompute in (False, True):
        model = randomise(VisionTransformer(spec, drop_path_rate=0.3, grad_checkpointing=recompute)).train()
        torch.manual_seed(3)  # drop path must draw the same in the recomputation
        model(images).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_final_norm_eps_is_the_specs():
    spec = SubnetSpec(32, 8, 48, 10, (LayerSpec(2, 96, 192),), final_norm_eps=1e-5)
    model = VisionTransformer(spec)
    assert (model.norm.eps, model.blocks[0].norm1.eps, model.blocks[0].norm2.eps) == (1e-5, 1e-6, 1e-6)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (SubnetSpec(32, 7, 48, 10, (LayerSpec(2, 96, 192),)), "image_size 32 is not a multiple of patch_size 7"),
        (SubnetSpec(32, 8, 48, 10, (LayerSpec(5, 96, 192),)), "layers[0].qkv_dim 96 is not a multiple of 3 *"),
    ],
)
def test_impossible_specs_are_refused(spec, says):
    with pytest.raises(UserError) as error:
        VisionTransformer(spec)
    assert says in str(error.value)
