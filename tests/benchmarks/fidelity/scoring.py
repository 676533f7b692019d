"""Scores of subnets in a supernet: the score of the product, and alternatives."""
# n images, S sides, C classes

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.benchmarks.fidelity import defects, study
from tests.benchmarks.fidelity.images import Images
from tests.benchmarks.fidelity.study import Variant
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.models.flat import tensor_places
from vitas_ds.models.supernet import Supernet
from vitas_ds.training import losses

ADAPT_STEPS, ADAPT_LR, FEW = 10, 1e-3, 200


def scores(variant: Variant, supernet: Supernet, averages: dict[str, Tensor], images: Images,
           specs: dict[str, SubnetSpec]) -> dict[str, dict[str, float]]:  # fmt: skip
    """Return the scores of each way of scoring: way -> subnet -> score (higher is better)."""
    # Seeded by the index of the subnet: all variants use the same positions.
    placed = {name: np.random.default_rng([7, i]) for i, name in enumerate(specs)}
    run = {n: defects.misplaced(s, placed[n]) if variant.defect == "widths" else s for n, s in specs.items()}
    found: dict[str, dict[str, float]] = {}
    for name, spec in run.items():
        for way, score in _ways(_logits(supernet, spec, images.search[0]), images.search[1]):
            found.setdefault(way, {})[name] = score
    if variant.extra:
        averaged = copy.deepcopy(supernet)
        averaged.load_state_dict(averages)
        found["averaged weights"] = {name: accuracy(averaged, spec, images) for name, spec in run.items()}
        at_random = {name: defects.scattered(spec, placed[name]) for name, spec in run.items()}
        found[study.AT_RANDOM] = {name: accuracy(supernet, spec, images) for name, spec in at_random.items()}
        found["adapted norms"] = {name: _adapted(supernet, spec, images) for name, spec in run.items()}
    return found


def accuracy(supernet: Supernet, spec: SubnetSpec, images: Images) -> float:
    """Return the score of the product: mean accuracy of the sides on the search images."""
    return next(iter(_ways(_logits(supernet, spec, images.search[0]), images.search[1])))[1]


@torch.inference_mode()
def _logits(supernet: Supernet, spec: SubnetSpec, x: Tensor) -> Tensor:
    return supernet(x, spec)


def _ways(logits: Tensor, labels: Tensor) -> Iterator[tuple[str, float]]:
    """Yield (way, score) of logits [S, n, C]."""
    right = (logits.argmax(-1) == labels).float()
    yield "accuracy", right.mean().item()
    yield "accuracy of summed logits", (logits.sum(0).argmax(-1) == labels).float().mean().item()
    yield "minus loss", -F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits))).item()
    yield f"accuracy on {FEW} images", right[:, torch.arange(0, len(labels), len(labels) // FEW)].mean().item()


def _adapted(supernet: Supernet, spec: SubnetSpec, images: Images) -> float:
    """Return the score after training only the norms for some steps, on a copy."""
    copied = copy.deepcopy(supernet)
    for parameter in copied.parameters():
        mask = torch.zeros_like(parameter)
        for name, place in tensor_places(copied).items():
            if place.parameter is parameter and "norm" in name:
                place.within(mask).fill_(1)
        parameter.register_hook(mask.mul)  # AdamW without decay keeps elements whose gradients are 0
    adamw = torch.optim.AdamW(copied.parameters(), lr=ADAPT_LR, weight_decay=0.0)
    for step in range(ADAPT_STEPS):
        x, y = images.batch(step, seed=99)
        adamw.zero_grad()
        losses.cross_entropy(copied(x, spec), y, "loss_mean").backward()
        adamw.step()
    return accuracy(copied, spec, images)
