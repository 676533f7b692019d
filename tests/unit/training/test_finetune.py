"""Learning rates per layer and frozen layers.

References: the parameter groups of timm, and the gradients of the same network without frozen tensors.
"""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer as TimmTransformer
from timm.optim import param_groups_layer_decay

from tests.helpers.networks import random_network
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.errors import UserError
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.training.finetune import frozen_names, lr_scales

SPEC = SubnetSpec(16, 4, 24, 5, (LayerSpec(2, 72, 48),) * 3)
NAMES = list(VisionTransformer(SPEC).state_dict())
LAYERS = [{name for name in NAMES if name.startswith(f"blocks.{i}.")} for i in range(3)]
STEM = {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
HEAD, NORM = {"head.weight", "head.bias"}, {"norm.weight", "norm.bias"}


@pytest.mark.parametrize("decay", [0.65, 0.9])
def test_the_learning_rates_are_those_of_timm(decay: float) -> None:
    timm_net = TimmTransformer(
        img_size=16, patch_size=4, embed_dim=24, depth=3, num_heads=2, num_classes=5, mlp_ratio=2
    )
    names = {parameter: name for name, parameter in timm_net.named_parameters()}
    groups = param_groups_layer_decay(timm_net, layer_decay=decay)
    expected = {names[parameter]: group["lr_scale"] for group in groups for parameter in group["params"]}
    assert lr_scales(NAMES, 3, decay) == pytest.approx(expected)
    assert lr_scales(NAMES, 3, 1) == {}
    pooled = TimmTransformer(
        img_size=16, patch_size=4, embed_dim=24, depth=3, num_heads=2, num_classes=5, mlp_ratio=2, global_pool="avg"
    )
    names = {parameter: name.replace("fc_norm.", "norm.") for name, parameter in pooled.named_parameters()}
    groups = param_groups_layer_decay(pooled, layer_decay=decay)
    expected = {names[parameter]: group["lr_scale"] for group in groups for parameter in group["params"]}
    assert lr_scales(NAMES, 3, decay, "patches") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        (0, set()), (1, STEM | LAYERS[0]), (3, STEM.union(*LAYERS)),
        ("backbone", STEM.union(*LAYERS) | NORM),
    ],
)  # fmt: skip
def test_the_frozen_tensors(freeze: int | str, expected: set[str]) -> None:
    assert frozen_names(NAMES, 3, freeze) == expected
    assert set(NAMES) == STEM.union(*LAYERS) | NORM | HEAD


def test_more_layers_than_the_network_has() -> None:
    with pytest.raises(UserError, match=r"^retrain.freeze: 4, but the network has 3 layers; use 3 or less, or backb"):
        frozen_names(NAMES, 3, 4)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("freeze", [1, 3, "backbone"])
@pytest.mark.parametrize("class_token_only", [False, True])
def test_frozen_tensors_get_no_gradient_and_the_others_the_same(
    freeze: int | str, precision: torch.dtype, class_token_only: bool
) -> None:
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))

    def gradients(frozen: frozenset[str]) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
        net = random_network(SPEC)
        net.frozen, net.class_token_only = frozen, class_token_only
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            logits = net(x)
        logits.square().sum().backward()
        return logits, {name: parameter.grad for name, parameter in net.named_parameters()}

    frozen = frozen_names(NAMES, 3, freeze)
    logits, grads = gradients(frozen)
    expected_logits, expected = gradients(frozenset())
    assert torch.equal(logits, expected_logits)
    for name, grad in grads.items():
        assert grad is None if name in frozen else torch.equal(grad, expected[name]), name
