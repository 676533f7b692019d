"""Mixing equals torchvision v2 for the same lam and box, and satisfies its definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import one_hot
from torchvision.transforms import v2

from vitas_ds.config import Mixing
from vitas_ds.data import mixing


def batch(n=5, size=12, classes=7):
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, 3, size, size, generator=generator), torch.randint(classes, (n,), generator=generator)


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_mixup_equals_torchvision(lam):
    images, labels = batch()
    targets = one_hot(labels, 7).float()
    params = {"labels": labels, "batch_size": 5, "lam": lam}
    v2_mixup = v2.MixUp(num_classes=7)
    mixed, mixed_targets = mixing.mixup(images, targets, lam)
    torch.testing.assert_close(mixed, v2_mixup.transform(images, params))
    torch.testing.assert_close(mixed_targets, v2_mixup.transform(labels, params))


@given(st.floats(0, 1), st.floats(0, 0.999), st.floats(0, 0.999))
@settings(max_examples=40, deadline=None)
def test_cutmix_equals_torchvision(lam, x, y):
    images, labels = batch()
    mixed, targets = mixing.cutmix(images, one_hot(labels, 7).float(), lam, np.array([x, y]))
    changed = (mixed != images).any(1).any(0).nonzero()
    box = (0, 0, 0, 0)
    if len(changed):
        (top, left), (bottom, right) = changed.amin(0).tolist(), (changed.amax(0) + 1).tolist()
        box = (left, top, right, bottom)
        assert left <= int(x * 12) <= right and top <= int(y * 12) <= bottom
    area = (box[2] - box[0]) * (box[3] - box[1]) / 144
    assert area <= 1 - lam + 1e-6
    params = {"labels": labels, "batch_size": 5, "box": box, "lam_adjusted": 1 - area}
    v2_cutmix = v2.CutMix(num_classes=7)
    assert torch.equal(mixed, v2_cutmix.transform(images, params))
    torch.testing.assert_close(targets, v2_cutmix.transform(labels, params))


def test_cutmix_box_has_the_requested_area():
    images, labels = batch(size=100)
    mixed, _ = mixing.cutmix(images, one_hot(labels, 7).float(), 0.75, np.array([0.5, 0.5]))
    assert (mixed != images).any(1).float().mean() == pytest.approx(0.25, abs=0.001)


@pytest.mark.parametrize("table", [0, 7])
def test_smoothing_equals_torch(monkeypatch, table):
    monkeypatch.setattr(mixing, "TABLE_CLASSES", table)
    images, labels = batch()
    logits = torch.randn(5, 7)
    same, targets = mixing.mix(images, labels, Mixing(smoothing=0.1), 7, 0, 0, 0)
    assert same is images
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, targets), expected)


@given(st.integers(1, 6), st.integers(0, 10**9), st.integers(0, 10**6), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_mix_is_a_function_of_seed_step_and_rank(n, seed, step, rank):
    images, labels = batch(n)
    before = torch.get_rng_state()
    config = Mixing(mixup=0.8, cutmix=1.0)
    first, again = (mixing.mix(images, labels, config, 7, seed, step, rank) for _ in range(2))
    other = mixing.mix(images, labels, config, 7, seed, step + 1, rank)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(first[1].sum(1), torch.ones(n))
    if n > 1:
        assert not torch.equal(first[0], other[0])


def test_switch_prob_is_the_share_of_cutmix():
    images, labels = batch(4)
    neighbor = images.roll(1, 0)

    def is_cutmix(step):
        mixed, _ = mixing.mix(images, labels, Mixing(mixup=0.8, cutmix=1.0, switch_prob=0.3), 7, 0, step, 0)
        return bool(((mixed == images) | (mixed == neighbor)).all())

    share = np.mean([is_cutmix(step) for step in range(600)])
    assert share == pytest.approx(0.3, abs=0.06)  # 3 standard deviations
