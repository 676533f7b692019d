"""The ranks of a job: who is who, and how they talk. The same code runs alone, under deepspeed, torchrun and srun."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vitas_ds.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among the others. Rank 0 writes what is written once."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0


def init(device: str = "auto", timeout: float = 1800) -> Ranks:
    """Join the job that the launcher's environment describes; without one, be a job of one process.

    Args:
        device: auto, cpu or cuda (``run.device``).
        timeout: seconds that a rank waits for another one before the job ends with an error (``run.timeout``).

    Raises:
        UserError: cuda is asked for and not there, or a node has fewer GPUs than ranks.
    """
    _adopt_slurm(os.environ)
    rank, world_size, local_rank = (int(os.environ.get(k, d)) for k, d in _DEFAULTS.items())
    target = _device(device, local_rank)
    if target.type == "cuda":
        torch.cuda.set_device(target)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(_cpu_share(os.environ))
    if not dist.is_initialized():
        backend = "nccl" if target.type == "cuda" else "gloo"
        limit = timedelta(seconds=timeout)
        if "MASTER_ADDR" in os.environ and "RANK" in os.environ:
            dist.init_process_group(backend, timeout=limit, rank=rank, world_size=world_size)
        else:  # alone: no port is opened
            dist.init_process_group(backend, timeout=limit, rank=0, world_size=1, store=dist.HashStore())
    return Ranks(dist.get_rank(), dist.get_world_size(), local_rank, target)


_DEFAULTS = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}


def _adopt_slurm(env: Any) -> None:
    """Under srun, say in torch's words what SLURM says in its own.

    SLURM_STEP_NUM_TASKS is set by srun alone; in a batch script or an interactive shell there is one process.
    """
    if "RANK" in env or int(env.get("SLURM_STEP_NUM_TASKS", 1)) == 1:
        return
    env["RANK"], env["WORLD_SIZE"] = env["SLURM_PROCID"], env["SLURM_STEP_NUM_TASKS"]
    env["LOCAL_RANK"] = env["SLURM_LOCALID"]
    if "MASTER_ADDR" not in env:
        env["MASTER_ADDR"] = env.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1")
        if int(env.get("SLURM_STEP_NUM_NODES", 1)) > 1:  # srun may be called from a login node: rank 0 is elsewhere
            env["MASTER_ADDR"] = first_host(env["SLURM_STEP_NODELIST"])
    env.setdefault("MASTER_PORT", str(20000 + int(env.get("SLURM_JOB_ID", 0)) % 20000))


def first_host(nodes: str) -> str:
    """First host of a SLURM node list: ``gpu[003-005,9],login`` -> ``gpu003``."""
    prefix, bracket, rest = nodes.partition("[")
    if not bracket or "," in prefix:
        return prefix.split(",")[0]
    inside, _, suffix = rest.partition("]")
    return prefix + inside.replace("-", ",").split(",")[0] + suffix.split(",")[0]


def _device(name: str, local_rank: int) -> torch.device:
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("run.device: cuda is not available on this machine; allowed here: cpu, auto")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"run.device: local rank {local_rank} has no GPU, the node has {torch.cuda.device_count()}; "
            "start as many ranks a node as it has GPUs"
        )
    return torch.device("cuda", local_rank)


def _cpu_share(env: Any) -> int:
    """Threads of this rank where the user set none: its share of the node's cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    local = env.get("LOCAL_WORLD_SIZE") or env.get("LOCAL_SIZE") or env.get("SLURM_NTASKS_PER_NODE") or "1"
    return max(1, cores // int(local))


def barrier() -> None:
    """Wait for all ranks."""
    if _many():
        dist.barrier()


def broadcast(obj: Any) -> Any:
    """Rank 0's object, on all ranks (pickled: for small things that this job made)."""
    if not _many():
        return obj
    box = [obj]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def from_main(make: Callable[[], T]) -> T:
    """What ``make`` returns on rank 0, on all ranks; what it raises there is raised on all ranks."""
    result, error = None, None
    if not _many() or dist.get_rank() == 0:
        try:
            result = make()
        except Exception as caught:
            error = caught
    result, error = broadcast((result, error))
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def gather(obj: Any) -> list[Any]:
    """Every rank's object in the order of ranks, on all ranks."""
    if not _many():
        return [obj]
    box: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(box, obj)
    return box


def all_sum(tensor: Tensor) -> Tensor:
    """Sum over the ranks, in place, on all ranks."""
    if _many():
        dist.all_reduce(tensor)
    return tensor


def lost_peer(error: BaseException) -> bool:
    """Whether this is what a collective raises when another rank died, or did not answer in time."""
    words = ("gloo", "NCCL", "Connection closed by peer", "Timed out waiting")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


_leave: list[Callable[[], None]] = []


def at_close(leave: Callable[[], None]) -> None:
    """Have ``close`` call ``leave`` first: the library that trains keeps groups of its own."""
    if leave not in _leave:
        _leave.append(leave)


def close() -> None:
    """Leave the job, together: the end of a stage that did its work. ``init`` may join again."""
    barrier()
    while _leave:
        _leave.pop()()
    if dist.is_initialized():
        dist.destroy_process_group()


def _many() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1
