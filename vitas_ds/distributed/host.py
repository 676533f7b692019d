"""Cores, memory and shared memory available to this process, within the limits of a container or job.

Importing this module does not import torch.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from vitas_ds.distributed.launcher import LOCAL_WORLD_SIZE

UNLIMITED = 1 << 60  # cgroup v1 has a number near 2^63 without a limit
WORKER_MEMORY = 512 << 20  # bytes per process that decodes large images
SHM = Path("/dev/shm")


def cores() -> int:
    """Return the number of cores that this process may use: its affinity, within the quota of its cgroups."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _cgroups("cpu") if (quota := _cpu_quota(folder))]
    return max(1, min([count, *(int(quota + 0.5) for quota in quotas)]))


def share(ranks: int, env: Mapping[str, str] = os.environ) -> int:
    """Return this rank's share of the cores, for ``ranks`` ranks on the machine.

    Slurm may bind each task to cores of its own; then they are not divided again, unless another launcher has started
    several ranks in the task.
    """
    available, of_task = cores(), env.get("SLURM_CPUS_PER_TASK", "")
    one_rank = not any(env.get(name) for name in LOCAL_WORLD_SIZE if not name.startswith("SLURM_"))
    if one_rank and of_task.isdecimal() and available <= int(of_task):
        return available
    return max(1, available // ranks)


def workers() -> int:
    """Return how many processes may decode images: one per core, within the free memory."""
    return max(1, min(cores(), free_memory() // WORKER_MEMORY))


def memory(root: Path = Path("/")) -> int:
    """Return the memory in bytes that this process may use: the machine's, within the limits of its cgroups."""
    limits = [limit for folder in _cgroups("memory", root) if (limit := _memory_limit(folder))]
    return min([_meminfo(root)["MemTotal"], *limits])


def free_memory(root: Path = Path("/")) -> int:
    """Return the free memory in bytes: of the machine, or of its cgroups if less."""
    free = [_meminfo(root)["MemAvailable"]]
    for folder in _cgroups("memory", root):
        if limit := _memory_limit(folder):
            used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0
            free.append(max(0, limit - max(0, used - _reclaimable(folder))))
    return min(free)


def free_shared_memory() -> int:
    """Return the free bytes of /dev/shm; 0 if it is missing or not writable."""
    if not SHM.is_dir() or not os.access(SHM, os.W_OK):
        return 0
    return shutil.disk_usage(SHM).free


def _meminfo(root: Path) -> dict[str, int]:
    with (root / "proc/meminfo").open() as lines:
        pairs = (line.split(":") for line in lines if ":" in line)
        return {name: int(value.split()[0]) * 1024 for name, value in pairs}


def _cgroups(controller: str, root: Path = Path("/")) -> Iterator[Path]:
    """Yield the folders of this process's cgroup and of all groups around it; each may have a limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":  # version 2
            top = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):  # version 1
            top = root / "sys/fs/cgroup" / controllers
            top = top if top.is_dir() else root / "sys/fs/cgroup" / controller
        else:
            continue
        # in a container, the path may be the host's, while only the container's own group is mounted: at the top
        folder = top / path.strip("/")
        while folder != top:
            yield folder
            folder = folder.parent
        yield top


def _memory_limit(folder: Path) -> int | None:
    limits = [_number(folder / name) for name in ("memory.max", "memory.high", "memory.limit_in_bytes")]
    return min((limit for limit in limits if limit and limit < UNLIMITED), default=None)


def _reclaimable(folder: Path) -> int:
    """Return the bytes of cached files, which count as used but are freed when memory is needed."""
    try:
        pairs = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(pairs.get("total_inactive_file", pairs.get("inactive_file", 0)))


def _cpu_quota(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()  # version 2
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        quota_us, period_us = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        return quota_us / period_us if quota_us and period_us else None


def _number(path: Path) -> int | None:
    """Return the number in a file; None if the file is missing or has another text, as "max" and -1."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
