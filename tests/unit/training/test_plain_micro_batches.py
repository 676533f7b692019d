"""Micro-batches, loss scale and non-finite gradients in the plain trainer.

References: the same training in one piece, and in fp32.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vitas_ds.config import Mixing, Training
from vitas_ds.models.layers import drop_path, part_of_batch
from vitas_ds.training.plain import PlainTrainer

TRAINING = Training(
    epochs=1, batch_size=8, lr=1e-2, warmup_epochs=0, clip_grad=1.0, mixing=Mixing(mixup=0.5, cutmix=0.5)
)


class Net(nn.Module):
    """Two layers with drop path."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(12, 16), nn.Linear(16, 3)

    def forward(self, images):
        x = self.first(images.flatten(1))
        x = x + drop_path(x.relu()[None, :, None], 0.4 if self.training else 0.0)[0, :, 0]
        return self.second(x)


def batches(bad: int = -1):
    generator = torch.Generator().manual_seed(1)
    for step in range(20):
        images = torch.randn(8, 3, 2, 2, generator=generator)
        yield images * (float("nan") if step == bad else 1.0), torch.arange(8) % 3


def trained(precision: str = "fp32", parts: int = 1, bad: int = -1, until: int = 6) -> PlainTrainer:
    net = Net()

    def losses(images, targets, step):
        yield nn.functional.cross_entropy(net(images), targets)

    trainer = PlainTrainer(net, TRAINING, 6, losses, 3, 7, precision, parts=parts)
    trainer.run(batches(bad), until)
    return trainer


def difference(a: PlainTrainer, b: PlainTrainer) -> float:
    return max((x - y).abs().max().item() for x, y in zip(a.parameters, b.parameters, strict=True))


@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_equal_one_batch(parts):
    whole, split = trained(), trained(parts=parts)
    assert difference(whole, split) < 1e-6 and split.loss.item() == pytest.approx(whole.loss.item(), rel=1e-5)


def test_drop_path_of_a_part_is_that_of_the_batch():
    x = torch.ones(2, 8, 1, 1)
    torch.manual_seed(3)
    whole = drop_path(x, 0.5)
    parts = []
    for first in (0, 6):
        torch.manual_seed(3)
        with part_of_batch(first, 8):
            parts.append(drop_path(x[:, : 6 if first == 0 else 2], 0.5))
    assert torch.equal(torch.cat(parts, 1), whole) and 0 < whole.count_nonzero() < 16
    torch.manual_seed(3)
    assert torch.equal(drop_path(x, 0.5), whole)  # no part any more


def test_a_step_without_a_finite_gradient_changes_nothing():
    """Reference: the training up to that step."""
    before, after = trained(until=5), trained(bad=5)
    assert after.step == 6 and after.skipped == 1 and before.skipped == 0
    assert difference(before, after) == 0 and difference(trained(), after) > 0


def test_fp16_scales_the_loss():
    """A state keeps the scale. Weights agree with fp32 up to the precision of fp16."""
    half, full = trained(precision="fp16"), trained()
    assert difference(half, full) < 2e-2 and half.scale.value == 2**16
    assert trained(precision="fp16", bad=2).scale.value == 2**15
    state = trained(precision="fp16", bad=2).state_dict()
    assert state["scale"]["value"] == 2**15 and state["skipped"] == 1
    half.load_state_dict(state)
    assert half.scale.value == 2**15 and half.skipped == 1
