"""Process groups and collectives. The same code runs alone and under deepspeed, torchrun, srun and mpirun."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vitas_ds.distributed import launcher
from vitas_ds.distributed.launcher import Launch
from vitas_ds.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Position of this process in the job. Rank 0 writes shared files."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0


def init(device: str = "auto", timeout: float = 1800) -> Ranks:
    """Join the launcher's job; without a launcher, create a job of one process.

    Args:
        device: "auto", "cpu" or "cuda" (``run.device``).
        timeout: Time limit of collectives in seconds (``run.timeout``).

    Raises:
        UserError: There is no GPU but ``device`` is "cuda", the node has fewer GPUs than ranks, or a variable of the
            launcher is malformed.
    """
    launch = launcher.read()
    launcher.adopt(launch)  # torch and deepspeed read the environment
    target = _device(device, launch.local_rank)
    if target.type == "cuda":
        torch.cuda.set_device(target)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(_cpu_share(launch))
    if not dist.is_initialized():
        backend = "nccl" if target.type == "cuda" else "gloo"
        limit = timedelta(seconds=timeout)
        if launch.master_addr is not None:
            dist.init_process_group(backend, timeout=limit, rank=launch.rank, world_size=launch.world_size)
        else:  # HashStore opens no port
            dist.init_process_group(backend, timeout=limit, rank=0, world_size=1, store=dist.HashStore())
    return Ranks(dist.get_rank(), dist.get_world_size(), launch.local_rank, target)


def _device(name: str, local_rank: int) -> torch.device:
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("run.device: cuda is not available on this machine; allowed here: cpu, auto")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"run.device: local rank {local_rank} has no GPU, the node has {torch.cuda.device_count()}; "
            "start at most one rank per GPU"
        )
    return torch.device("cuda", local_rank)


def _cpu_share(launch: Launch) -> int:
    """Return this rank's share of the node's cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // (launch.local_world_size or 1))


def barrier() -> None:
    """Wait for all ranks."""
    if _many():
        dist.barrier()


def broadcast(obj: Any) -> Any:
    """Return rank 0's object on all ranks. It is pickled, so use this for small objects of this job only."""
    if not _many():
        return obj
    box = [obj]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def from_main(function: Callable[[], T]) -> T:
    """Run ``function`` on rank 0 and return its result, or raise its exception, on all ranks."""
    result, error = None, None
    if not _many() or dist.get_rank() == 0:
        try:
            result = function()
        except Exception as caught:
            error = caught
    result, error = broadcast((result, error))
    if error is not None:
        raise error
    return result


def gather(obj: Any) -> list[Any]:
    """Return the objects of all ranks, in rank order, on all ranks."""
    if not _many():
        return [obj]
    box: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(box, obj)
    return box


def all_sum(tensor: Tensor) -> Tensor:
    """Sum a tensor over the ranks, in place, on all ranks."""
    if _many():
        dist.all_reduce(tensor)
    return tensor


def is_peer_failure(error: BaseException) -> bool:
    """Return whether a collective raised this because another rank died or did not answer in time."""
    # gloo and NCCL raise a plain RuntimeError; only its text says which failure it is
    texts = ("gloo", "NCCL", "Connection closed by peer", "Timed out waiting")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    )


_cleanups: list[Callable[[], None]] = []


def at_close(cleanup: Callable[[], None]) -> None:
    """Register a function that ``close`` calls first. DeepSpeed has process groups of its own to destroy."""
    if cleanup not in _cleanups:
        _cleanups.append(cleanup)


def close() -> None:
    """Leave the job; all ranks call it at the end of a successful stage. ``init`` may be called again."""
    barrier()
    while _cleanups:
        _cleanups.pop()()
    if dist.is_initialized():
        dist.destroy_process_group()


def _many() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1
