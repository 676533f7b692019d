"""Environment variables of each launcher. Real jobs run in tests/distributed.

Reference: the variables in the documentation of each launcher, with ranks by hand.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from vitas_ds.distributed import console, launcher
from vitas_ds.distributed.launcher import Launch, adopt, first_host, read, started_by
from vitas_ds.errors import UserError

STEP = {
    "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[003-004]", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.9", "SLURM_JOB_ID": "123456",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}  # fmt: skip
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}


def test_the_first_report_of_a_node_removes_the_files_of_earlier_jobs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old, others = tmp_path / f".vitas-{os.getuid()}-29500-7", tmp_path / ".vitas-4294967294-29500-7"
    for path in (old, others):
        path.touch()
        os.utime(path, (0, 0))
    assert console.first_of_node() and not console.first_of_node()
    assert not old.exists() and others.exists() and len(list(tmp_path.iterdir())) == 2


def test_no_launcher() -> None:
    assert read({}) == Launch(0, 1, 0, None, None, None)
    env: dict[str, str] = {}
    adopt(read(env), env)
    assert env == {}


@pytest.mark.parametrize("local", ["LOCAL_WORLD_SIZE", "LOCAL_SIZE"], ids=["torchrun", "deepspeed"])
def test_torchrun_and_deepspeed(local: str) -> None:
    env = {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", local: "8", "MASTER_ADDR": "a", "MASTER_PORT": "29500"}
    assert read(env) == Launch(9, 16, 1, 8, "a", 29500)
    assert read(env | STEP) == read(env | OPEN_MPI) == read(env)  # started inside an allocation
    before = dict(env)
    adopt(read(env), env)
    assert env == before


def test_srun() -> None:
    env = dict(STEP)
    adopt(read(env), env)
    assert (env["RANK"], env["WORLD_SIZE"], env["LOCAL_RANK"]) == ("5", "8", "1")
    assert env["MASTER_ADDR"] == "gpu003" and 1024 < int(env["MASTER_PORT"]) < 65536
    assert read(STEP | {"SLURM_NTASKS_PER_NODE": "4"}).local_world_size == 4
    assert read(STEP | {"SLURM_STEP_NUM_NODES": "1"}).master_addr == "10.0.0.9"
    assert read(env) == read(STEP)  # as a second stage of the same process reads it


def test_srun_keeps_variables_that_are_set() -> None:
    env = STEP | {"MASTER_ADDR": "head", "MASTER_PORT": "29500"}
    adopt(read(env), env)
    assert (env["MASTER_ADDR"], env["MASTER_PORT"]) == ("head", "29500")
    env = STEP | {"RANK": "0", "WORLD_SIZE": "2"}  # torchrun inside an allocation
    adopt(read(env), env)
    assert (env["RANK"], env["WORLD_SIZE"]) == ("0", "2")


def test_a_batch_script_without_srun_is_one_process() -> None:
    env = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}
    adopt(read(env), env)
    assert "RANK" not in env
    assert read(env | {"SLURM_STEP_NUM_TASKS": "1"}) == Launch()


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ({}, ""),
        ({"RANK": "0", "WORLD_SIZE": "2"}, ""),  # by hand: no launcher whose end matters
        ({"RANK": "0", "CROSS_RANK": "0"}, "deepspeed"),
        ({"RANK": "0", "TORCHELASTIC_RUN_ID": "none"}, "torchrun"),
        ({"RANK": "0", "VITAS_NODE": "1"} | STEP, "node.sh"),
        (STEP, "srun"),
        (STEP | {"SLURM_STEP_NUM_TASKS": "1"}, ""),
        (OPEN_MPI, "mpirun"),
    ],
)
def test_launcher_by_its_variables(env: dict[str, str], name: str) -> None:
    assert started_by(env) == name


def test_mpirun() -> None:
    assert read(OPEN_MPI | {"MASTER_ADDR": "a", "MASTER_PORT": "77"}) == Launch(3, 4, 1, 2, "a", 77)
    assert read(MPICH) == Launch(1, 2, 1, 2, "127.0.0.1", 20000)
    assert read(MPICH | {"SLURM_JOB_ID": "5"}).master_port == 20005
    assert read(OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "1"}).master_addr is None
    with pytest.raises(UserError, match="MASTER_ADDR: not set"):
        read(OPEN_MPI)  # two nodes
    env = dict(MPICH)
    adopt(read(env), env)
    assert (env["RANK"], env["WORLD_SIZE"], env["LOCAL_RANK"], env["MASTER_ADDR"]) == ("1", "2", "1", "127.0.0.1")
    assert read(env) == read(MPICH)


def test_mpirun_inside_a_slurm_job() -> None:
    """mpiexec starts one srun task per node, srun --mpi=pmi2 one per rank."""
    step = STEP | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}
    assert read(step | OPEN_MPI | {"MASTER_ADDR": "a"}).rank == 3
    assert read(step | MPICH | {"PMI_RANK": "3", "PMI_SIZE": "4", "MASTER_ADDR": "a"}).rank == 3
    assert read(STEP | {"PMI_RANK": "5", "PMI_SIZE": "8"}) == read(STEP)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("node1", "node1"), ("a,b", "a"), ("gpu[003-005,9],login", "gpu003"), ("n[7,9]", "n7"),
     ("n[1-2].x.org", "n1.x.org"),
     ("a,n[1-2]", "a")],
)  # fmt: skip
def test_first_host(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"RANK": "x"}, r"RANK: must be a whole number, 0 or more \(given: x\)"),
        ({"WORLD_SIZE": "0"}, r"WORLD_SIZE: must be a whole number, 1 or more \(given: 0\)"),
        ({"WORLD_SIZE": "-1"}, r"WORLD_SIZE: must be a whole number, 1 or more \(given: -1\)"),
        ({"LOCAL_WORLD_SIZE": "two"}, "LOCAL_WORLD_SIZE: must be a whole number"),
        ({"RANK": "0", "MASTER_ADDR": "a"}, "MASTER_PORT: not set"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_PROCID: not set"),
        ({"SLURM_STEP_NUM_TASKS": "2(x2)"}, "SLURM_STEP_NUM_TASKS: must be a whole number"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "1.5", "MASTER_ADDR": "a"}, "OMPI_COMM_WORLD_RANK: must be"),
    ],
)
def test_malformed_variables(env: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        read(env)


def test_only_rank_0_is_main(monkeypatch: pytest.MonkeyPatch) -> None:
    for env, main in ((Launch(rank=0), True), (Launch(rank=3), False)):
        monkeypatch.setattr(launcher, "read", lambda env=env: env)
        assert console.is_main() is main


def test_is_main_with_malformed_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "abc")
    for rank, main in (("0", True), ("1", False), ("x", True)):
        monkeypatch.setenv("RANK", rank)
        assert console.is_main() is main
