"""Limits of cgroups (versions 1 and 2) on memory and cores.

Reference: files written by hand, as the kernel's documentation describes them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from vitas_ds.distributed import host

GB = 1 << 30


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Root of a machine with 64 GiB, 40 of them free."""
    write(tmp_path / "proc/meminfo", f"MemTotal: {64 * GB // 1024} kB\nMemAvailable: {40 * GB // 1024} kB\n")
    return tmp_path


def write(path: Path, text: str | int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def test_no_limit(root: Path) -> None:
    assert (host.memory(root), host.free_memory(root)) == (64 * GB, 40 * GB)


def test_version_2_takes_the_smallest_limit_of_all_groups_around(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/job/step")
    group = root / "sys/fs/cgroup/job"
    write(group / "memory.max", 8 * GB)
    write(group / "memory.current", 7 * GB)
    write(group / "memory.stat", f"anon 1\ninactive_file {2 * GB}")
    write(group / "step/memory.max", "max")
    assert (host.memory(root), host.free_memory(root)) == (8 * GB, 3 * GB)
    write(group / "step/memory.max", 4 * GB)
    write(group / "step/memory.current", 5 * GB)
    assert (host.memory(root), host.free_memory(root)) == (4 * GB, 0)


def test_version_1(root: Path) -> None:
    write(root / "proc/self/cgroup", "4:memory:/slurm/job_7\n3:cpu,cpuacct:/\n0::/")
    group = root / "sys/fs/cgroup/memory/slurm/job_7"
    write(group / "memory.limit_in_bytes", 16 * GB)
    write(group / "memory.usage_in_bytes", 6 * GB)
    write(group / "memory.stat", f"inactive_file 1\ntotal_inactive_file {GB}")
    write(group.parent / "memory.limit_in_bytes", (1 << 63) - 4096)  # none
    assert (host.memory(root), host.free_memory(root)) == (16 * GB, 11 * GB)


def test_in_a_container_the_own_group_is_at_the_top(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/../docker/1234")
    write(root / "sys/fs/cgroup/memory.max", 2 * GB)
    assert host.memory(root) == 2 * GB


def test_cores_and_workers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root / "proc/self/cgroup", "3:cpu,cpuacct:/job")
    write(root / "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", 250_000)
    write(root / "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", 100_000)
    (folder, _) = host._cgroups("cpu", root)
    assert host._cpu_quota(folder) == 2.5
    write(root / "quota/cpu.max", "150000 100000")
    assert host._cpu_quota(root / "quota") == 1.5
    write(root / "quota/cpu.max", "max 100000")
    assert host._cpu_quota(root / "quota") is None
    monkeypatch.setattr(host, "cores", lambda: 64)
    monkeypatch.setattr(host, "free_memory", lambda: 3 * GB)
    assert host.workers() == 6


def test_cores_of_a_task_are_divided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "cores", lambda: 96)
    assert host.share(8, {}) == 12 and host.share(200, {}) == 1
    slurm = {"SLURM_CPUS_PER_TASK": "12"}
    assert host.share(8, slurm) == 12  # tasks that are not bound
    monkeypatch.setattr(host, "cores", lambda: 12)
    assert host.share(8, slurm) == 12  # bound
    assert host.share(8, slurm | {"LOCAL_WORLD_SIZE": "8"}) == 1  # one task that starts all ranks
    assert host.share(8, slurm | {"OMPI_COMM_WORLD_LOCAL_SIZE": "8"}) == 1 and host.share(1, slurm) == 12
    assert host.share(8, slurm | {"SLURM_NTASKS_PER_NODE": "8"}) == 12


def test_this_machine() -> None:
    assert host.cores() >= 1 and 0 < host.free_memory() <= host.memory() and host.free_shared_memory() >= 0
