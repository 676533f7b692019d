"""Groups of ranks that work independently of each other, for example on one network each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from vitas_ds.distributed import watchdog
from vitas_ds.distributed.comm import Ranks

POLL = 0.2  # seconds
FOREVER = timedelta(days=3650)


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
    """Return the largest divisor of ``world_size`` up to ``limit``."""
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


class MeetingPoint:
    """Where all ranks wait for each other, however long it takes: groups may differ by hours.

    A collective would time out, and the watchdog would report a hang. All ranks must create it together.

    Args:
        ranks: The ranks of the job.
        timeout: ``run.timeout``.
    """

    def __init__(self, ranks: Ranks, timeout: float) -> None:
        self.many, self.timeout = ranks.world_size > 1, timeout
        # gloo can be polled, and notices at once if a rank dies
        handle = dist.new_group(backend="gloo", timeout=FOREVER) if self.many else None
        self.handle = cast(dist.ProcessGroup | None, handle)

    def any(self, flag: bool, poll: Callable[[], object]) -> bool:
        """Wait for all ranks, and return whether any of them passed ``flag``.

        Args:
            flag: The flag of this rank.
            poll: Called while waiting.
        """
        if not self.many:
            return flag
        count, reported = torch.tensor(int(flag)), time.monotonic()
        watchdog.at(watchdog.WAITING)
        work = dist.all_reduce(count, group=self.handle, async_op=True)
        assert work is not None
        while not work.is_completed():
            time.sleep(POLL)
            poll()
            # Often enough not to be taken for a hang. More often, this rank would never look for ranks that died.
            if time.monotonic() - reported > self.timeout / 4:
                reported = time.monotonic()
                watchdog.at(watchdog.WAITING)
        work.wait()
        return bool(count)
