"""Scorers with a small supernet."""

from __future__ import annotations

import torch

from tests.helpers.searches import SMALL
from vitas_ds.distributed.comm import Ranks
from vitas_ds.models.supernet import Supernet
from vitas_ds.search.scoring.scorer import Scorer, balanced_order
from vitas_ds.training import sampling

PIXELS = torch.randint(0, 256, (90, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


LABELS = torch.arange(90) % 10


def prepare(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float() / 64 - 2


def supernet(sharing: str = "bilateral") -> Supernet:
    torch.manual_seed(0)
    net = Supernet(SMALL, sharing)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net


SPECS = [sampling.draw(SMALL, 0, step, 0.3).canonical() for step in range(5)]


def scorer(count: int = 0, rank: int = 0, world: int = 1, **options) -> Scorer:
    ranks = Ranks(rank, world, rank, torch.device("cpu"))
    order = balanced_order(LABELS.numpy(), count, seed=0)
    net = supernet(options.pop("sharing", "bilateral"))
    return Scorer(net, PIXELS, LABELS, prepare, order, ranks, batch_size=16, **options)
