"""The outputs of a teacher: other normalization, precision, no gradient.

Reference: the network itself, on pixels normalized for it.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.networks import random_network
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.config import Data, Mixing
from vitas_ds.data.mixing import mix
from vitas_ds.training.teacher import TeacherNetwork, freeze

SPEC = SubnetSpec(16, 4, 20, 4, (LayerSpec(2, 60, 40), LayerSpec(1, 30, 20)))
MEAN, STD = (0.1, 0.4, 0.7), (0.2, 0.5, 0.3)
DATA = Data(mean=(0.5, 0.45, 0.55), std=(0.25, 0.3, 1.0))


def normalize(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def teacher_of(precision: str = "fp32", data: Data = DATA) -> TeacherNetwork:
    return freeze(random_network(SPEC).train(), "digest", (MEAN, STD), data, precision, torch.device("cpu"))


@pytest.mark.parametrize("mixing", [Mixing(), Mixing(mixup=0.8), Mixing(cutmix=1.0)], ids=["plain", "mixup", "cutmix"])
def test_mixed_images_are_normalized_for_the_teacher(mixing: Mixing) -> None:
    pixels = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(6) % 4
    ours, theirs = (
        mix(normalize(pixels, mean, std), labels, mixing, 4, seed=0, step=3, rank=0)[0]
        for mean, std in ((DATA.mean, DATA.std), (MEAN, STD))
    )
    expected = random_network(SPEC)(theirs).detach()
    torch.testing.assert_close(teacher_of()(ours), expected)
    assert (random_network(SPEC)(ours) - expected).abs().max() > 0.1  # the normalization matters


def test_equal_normalization_changes_no_bit() -> None:
    images = torch.randn(2, 3, 16, 16)
    got = teacher_of(data=Data(mean=MEAN, std=STD))(images)
    assert torch.equal(got, random_network(SPEC)(images).detach())


def test_it_is_frozen_and_uses_no_random_number() -> None:
    teacher, images = teacher_of(), torch.randn(2, 3, 16, 16, requires_grad=True)
    teacher.model.blocks[0].drop_path_rate = 0.9  # only used in training mode
    assert not teacher.model.training and not any(p.requires_grad for p in teacher.model.parameters())
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, second = teacher(images), teacher(images)
    assert torch.equal(first, second) and torch.equal(torch.get_rng_state(), state)
    assert not first.requires_grad
    weight = torch.ones(2, 4, requires_grad=True)
    (weight * first).sum().backward()  # saves the logits for the backward pass
    assert torch.equal(weight.grad, first)


def test_it_computes_in_the_precision_of_the_engine() -> None:
    images = torch.randn(2, 3, 16, 16)
    got = teacher_of("bf16", Data(mean=MEAN, std=STD))(images)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        expected = random_network(SPEC)(images)
    assert expected.dtype == torch.bfloat16 and got.dtype == torch.float32
    assert torch.equal(got, expected.float())
    assert not torch.equal(got, random_network(SPEC)(images))


def test_a_module_that_uses_it_has_no_more_parameters() -> None:
    student = nn.Linear(2, 2)
    student.teacher = teacher_of()
    assert len(list(student.parameters())) == 2 and set(student.state_dict()) == {"weight", "bias"}
