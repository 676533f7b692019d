"""Hits of the most likely classes. References: scikit-learn, and non-finite logits."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from vitas_ds.models.hits import top_hits


@pytest.mark.parametrize("k", [1, 5])
def test_hits_equal_scikit_learn(k: int) -> None:
    logits, labels = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 8
    expected = top_k_accuracy_score(labels.numpy(), logits.numpy(), k=k, normalize=False)
    assert top_hits(logits, labels, k).shape == (40, k) and int(top_hits(logits, labels, k).sum()) == expected > 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_hit_no_label(value: float) -> None:
    logits = torch.full((3, 3), value)
    assert not top_hits(logits, torch.arange(3), 5).any()
    logits = torch.eye(3)
    logits[1, 0] = value
    assert top_hits(logits, torch.arange(3)).flatten().tolist() == [True, False, True]


def test_fewer_classes_than_places() -> None:
    assert top_hits(torch.eye(2), torch.tensor([0, 1]), 5).tolist() == [[True, False], [True, False]]
