"""Small functions of all networks: patches, padding, drop path, seeded initial weights."""
# S sides, B batch, C = 3 image channels, H height, W width, p patch_size, n patches

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitas_ds.models.flat import named_tensors


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """[B, 3, H, W] -> [B, n, 3 * p * p]: cut images into patches, with pixels in the order of a convolution weight."""
    B, C, H, W = images.shape
    p = patch_size
    patches = images.reshape(B, C, H // p, p, W // p, p).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(B, (H // p) * (W // p), C * p * p)


def pad_to(x: Tensor, size: int) -> Tensor:
    """Append zeros to the last dimension. Without any, return ``x`` itself: ``F.pad`` would copy it."""
    return x if x.shape[-1] == size else F.pad(x, (0, size - x.shape[-1]))


def drop_path(x: Tensor, rate: float) -> Tensor:
    """Drop samples of a residual branch [S, B, N, D] and scale the others (stochastic depth, arXiv 1603.09382)."""
    if rate == 0.0:
        return x
    keep = _uniform(x) >= rate
    return x * (keep / (1 - rate)).to(x.dtype)


_part: tuple[int, int] | None = None  # see part_of_batch


def _uniform(x: Tensor) -> Tensor:
    """Return a random number in [0, 1) for each sample, [S, B, 1, 1]."""
    S, B = x.shape[:2]
    if _part is None:
        return torch.rand((S, B, 1, 1), device=x.device)
    first, batch = _part
    return torch.rand((S, batch, 1, 1), device=x.device)[:, first : first + B]


@contextmanager
def part_of_batch(first: int, batch: int) -> Iterator[None]:
    """Let ``drop_path`` draw for a whole batch while a network computes only a part of it.

    With the same seed for each part, an image's draws do not depend on how the batch is split.

    Args:
        first: Index of the part's first image in the batch.
        batch: Images in the batch.
    """
    global _part
    _part = first, batch
    try:
        yield
    finally:
        _part = None


def init_weights(model: nn.Module, seed: int, std: float | None = 0.02) -> None:
    """Initialize weights from seed and parameter name only: equal on all ranks, for any number of ranks.

    - Matrices: normal with standard deviation ``std``. 0.02 is that of the first release, truncated at +-2 (not at two
      standard deviations), like timm's ``trunc_normal_``. None: fan_in ** -0.5, without which narrow networks learn
      slowly.
    - Patch embeddings: uniform within +-fan_in ** -0.5, like a convolution of torch.
    - Norms: weight 1, bias 0. LayerScale: 1e-5, as in DINOv2. Other biases, class token and position embedding: 0.
    - Prefix tokens after the class token: normal with standard deviation 0.02. Equal ones would stay equal.
    """
    for name, weight in named_tensors(model).items():
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
        with torch.no_grad():
            if weight.ndim == 4:
                bound = weight[0].numel() ** -0.5
                values = torch.empty(weight.shape).uniform_(-bound, bound, generator=generator)
            elif weight.ndim == 2:
                values = torch.empty(weight.shape)
                nn.init.trunc_normal_(values, std=weight.shape[1] ** -0.5 if std is None else std, generator=generator)
            elif name.endswith("cls_token") and weight.shape[1] > 1:
                values = torch.zeros(weight.shape)
                nn.init.trunc_normal_(values[:, 1:], std=0.02, generator=generator)
            elif name.endswith("gamma"):
                values = torch.full(weight.shape, 1e-5)
            else:
                values = torch.full(weight.shape, float("norm" in name and name.endswith("weight")))
            weight.copy_(values)
