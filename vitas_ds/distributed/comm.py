"""Process groups and collectives. The same code runs alone and under deepspeed, torchrun, srun and mpirun."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vitas_ds.distributed import console, host, launcher, network, rendezvous
from vitas_ds.distributed.launcher import Launch
from vitas_ds.errors import UserError

SHM_PER_RANK = 64 << 20  # bytes of /dev/shm that NCCL may need for a rank
NCCL_GRACE = 300  # seconds after our time limit in which NCCL's own monitor does nothing

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
        UserError: ``device`` is "cuda" without a GPU, the node has fewer GPUs than ranks, a variable of the
            launcher is malformed, or its master cannot be used.
        RankLost: A rank did not start in time. The line has been printed.
    """
    launch = launcher.read()
    if not dist.is_initialized():
        console.share_first(console.first_of_node if launch.world_size > 1 else None)
        network.choose_interface(launch)
    launcher.adopt(launch)  # torch and deepspeed read the environment
    target = _device(device, launch.local_rank)
    if target.type == "cuda":
        torch.cuda.set_device(target)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(_cpu_share(launch))
    if not dist.is_initialized():
        _join(launch, target, timeout)
    return Ranks(dist.get_rank(), dist.get_world_size(), launch.local_rank, target)


def _join(launch: Launch, target: torch.device, timeout: float) -> None:
    backend, limit = "nccl" if target.type == "cuda" else "gloo", timedelta(seconds=timeout)
    if backend == "nccl":
        _prepare_nccl(launch, timeout)
    if launch.master_addr is None or launch.world_size == 1:  # HashStore opens no port
        dist.init_process_group(backend, timeout=limit, rank=0, world_size=1, store=dist.HashStore())
        return
    store = rendezvous.join(launch, timeout, _identity(target))
    try:
        dist.init_process_group(backend, timeout=limit, rank=launch.rank, world_size=launch.world_size, store=store)
    except RuntimeError as error:
        if not is_peer_failure(error):
            raise
        rendezvous.lost("a rank ended while the ranks were connecting; start the stage again to resume")


def _prepare_nccl(launch: Launch, timeout: float) -> None:
    """Let our watchdog report lost ranks, and NCCL work with little shared memory. Values of the user remain.

    NCCL's own watchdog would abort the process with a stack trace, sometimes before ours has written its line.
    """
    defaults = {
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",  # a lost peer: our watchdog ends the process
        "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": f"{timeout + NCCL_GRACE:.0f}",  # the last resort if ours does not
        "TORCH_NCCL_ENABLE_MONITORING": "1",
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    local = launch.local_world_size or launch.world_size
    free = host.free_shared_memory()
    if local > 1 and free < local * SHM_PER_RANK and not os.environ.get("NCCL_SHM_DISABLE"):
        os.environ["NCCL_SHM_DISABLE"] = "1"
        warnings.warn(
            f"/dev/shm: {free >> 20} MB free, but the {local} ranks of this node may need "
            f"{local * SHM_PER_RANK >> 20} MB: NCCL works without it, which is slower (docker run --shm-size 16g)",
            stacklevel=2,
        )


def _device(name: str, local_rank: int) -> torch.device:
    """Return the device of this rank, for all packages: the only visible GPU, or the one of its local rank."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("run.device: cuda is not available on this machine; allowed here: cpu, auto")
    return torch.device("cuda", choose_gpu(local_rank, torch.cuda.device_count()))


def choose_gpu(local_rank: int, visible: int) -> int:
    """Return the index of this rank's GPU among the visible ones.

    Slurm may show each task its own GPU only, which then has index 0. Ranks that share a GPU by mistake are found when
    they meet.

    Raises:
        UserError: There are several GPUs, but fewer than ranks.
    """
    if visible == 1:
        return 0
    if local_rank >= visible:
        raise UserError(
            f"run.device: local rank {local_rank} has no GPU, this process sees {visible}; start at most one rank per "
            "GPU, or show each rank its own"
        )
    return local_rank


def _identity(device: torch.device) -> str:
    """Return host and UUID of a GPU, to find ranks with the same one; empty for a CPU."""
    if device.type != "cuda" or "MIG" in os.environ.get("CUDA_VISIBLE_DEVICES", ""):
        return ""
    return f"{platform.node()} {torch.cuda.get_device_properties(device).uuid}"


def _cpu_share(launch: Launch) -> int:
    """Return this rank's share of the node's cores."""
    return host.share(launch.local_world_size or 1)


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
    console.share_first(None)


def _many() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1
