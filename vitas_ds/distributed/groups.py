"""Groups of ranks that work independently of each other, for example on one network each."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from vitas_ds.distributed.comm import Ranks


@dataclass(frozen=True)
class Group:
    """The group of this rank.

    Attributes:
        index: Index of the group.
        count: Number of groups.
        rank: Index of this rank in the group.
        size: Number of ranks in each group.
        handle: The process group; None for the group of all ranks, and for a single rank.
    """

    index: int = 0
    count: int = 1
    rank: int = 0
    size: int = 1
    handle: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the first rank of the group, which writes its files."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the ranks of the group, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, group=self.handle)
        return tensor

    def mean(self, tensors: list[Tensor]) -> None:
        """Average tensors over the ranks of the group, in place, with one collective."""
        if self.size == 1 or not tensors:
            return
        flat = self.sum(torch.cat([tensor.reshape(-1).float() for tensor in tensors])).div_(self.size)
        for tensor, values in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(values.view_as(tensor))

    def last_of_previous(self, tensor: Tensor) -> Tensor:
        """Return the last row of the previous rank's tensor; the first rank gets that of the last rank."""
        own = tensor[-1].contiguous()
        if self.size == 1:
            return own
        rows = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(rows, own, group=self.handle)
        return rows[self.rank - 1]


def largest_divisor(world_size: int, limit: int) -> int:
    """Return the largest divisor of ``world_size`` that is at most ``limit``."""
    return max(n for n in range(1, world_size + 1) if world_size % n == 0 and n <= limit)


def split(ranks: Ranks, count: int, timeout: float) -> Group:
    """Split the ranks into ``count`` groups of consecutive ranks. All ranks must call this.

    Args:
        ranks: The ranks of the job.
        count: Number of groups; a divisor of the number of ranks.
        timeout: Time limit of a collective in seconds.
    """
    size = ranks.world_size // count
    index, rank = divmod(ranks.rank, size)
    if count == 1 or size == 1:
        return Group(index, count, rank, size)
    limit = timedelta(seconds=timeout)
    handles = [dist.new_group(range(i * size, (i + 1) * size), timeout=limit) for i in range(count)]
    return Group(index, count, rank, size, cast(dist.ProcessGroup, handles[index]))
