"""Measure the speed of a training step, for the estimate before anything has run."""

from __future__ import annotations

import time

import torch
from torch.nn import functional as F

from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.search.trials.plan import PASSES


def measure(spec: SubnetSpec, batch_size: int, steps: int = 4) -> float:
    """Return the MACs per CPU second of forward and backward passes in one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    net = VisionTransformer(spec, class_token_only=True)
    images = torch.randn(batch_size, 3, spec.image_size, spec.image_size)
    labels = torch.zeros(batch_size, dtype=torch.int64)

    def step() -> None:
        F.cross_entropy(net(images), labels).backward()

    step()  # allocates
    start = time.process_time()
    for _ in range(steps):
        step()
    torch.set_num_threads(threads)
    return steps * batch_size * PASSES * spec_macs(spec) / (time.process_time() - start)
