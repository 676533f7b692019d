"""Read rank and world size from the launcher's environment variables. Importing this module does not import torch.

Supported: deepspeed, torchrun and launch/node.sh (RANK, WORLD_SIZE, ...), srun, and mpirun of Open MPI, MPICH and Intel
MPI. Without a launcher, the job has one process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from vitas_ds.errors import UserError

LOCAL_WORLD_SIZE = (
    "LOCAL_WORLD_SIZE",  # torchrun, launch/node.sh
    "LOCAL_SIZE",  # deepspeed
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALNRANKS",
    "SLURM_NTASKS_PER_NODE",
)
# environment variables of rank, world size and local rank
OPEN_MPI = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
MPICH = ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID")


@dataclass(frozen=True)
class Launch:
    """Position of this process in its job.

    Attributes:
        rank: Rank of this process, from 0.
        world_size: Number of ranks.
        local_rank: Rank within the node, from 0.
        local_world_size: Ranks per node; None if the launcher does not say.
        master_addr: Host of rank 0; None if this process is not part of a job.
        master_port: Port on that host.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int | None = None
    master_addr: str | None = None
    master_port: int | None = None


def read(env: Mapping[str, str] = os.environ) -> Launch:
    """Return the position of this process in its job.

    Raises:
        UserError: A variable is not a number, or is missing.
    """
    if not env.get("RANK"):
        if names := _mpi_names(env):
            return _from_mpi(env, *names)
        if _number(env, "SLURM_STEP_NUM_TASKS", 1) > 1:
            return _from_slurm(env)
    master = env.get("MASTER_ADDR") if env.get("RANK") else None
    return Launch(
        rank=_number(env, "RANK", 0),
        world_size=_number(env, "WORLD_SIZE", 1, minimum=1),
        local_rank=_number(env, "LOCAL_RANK", 0),
        local_world_size=_local_world_size(env),
        master_addr=master,
        master_port=_number(env, "MASTER_PORT") if master else None,
    )


def started_by(env: Mapping[str, str] = os.environ) -> str:
    """Return the launcher that started this process: deepspeed, torchrun, srun, mpirun or node.sh; empty if none did.

    A process with RANK set by hand has none.
    """
    if env.get("RANK"):
        known = {"CROSS_RANK": "deepspeed", "TORCHELASTIC_RUN_ID": "torchrun", "VITAS_NODE": "node.sh"}
        return next((name for variable, name in known.items() if env.get(variable)), "")
    if _mpi_names(env):
        return "mpirun"
    return "srun" if env.get("SLURM_PROCID") and env.get("SLURM_STEP_NUM_TASKS", "1") != "1" else ""


def launcher_process() -> int:
    """Return the id of the process that started the ranks of this node; their supervisors are between them."""
    return int(os.environ.get("VITAS_LAUNCHER", os.getppid()))


def one_node(launch: Launch, env: Mapping[str, str] = os.environ) -> bool:
    """Return whether all ranks are on one node, as far as the launcher says."""
    if launch.world_size in (1, launch.local_world_size):
        return True
    if env.get("SLURM_STEP_NUM_TASKS") == str(launch.world_size) and env.get("SLURM_STEP_NUM_NODES"):
        return env["SLURM_STEP_NUM_NODES"] == "1"
    return launch.master_addr is not None and launch.master_addr.startswith(("localhost", "127."))


def adopt(launch: Launch, env: MutableMapping[str, str] = os.environ) -> None:
    """Set the variables that torch and deepspeed read, unless this process is not part of a job."""
    if launch.master_addr is not None:
        env["RANK"], env["WORLD_SIZE"] = str(launch.rank), str(launch.world_size)
        env["LOCAL_RANK"] = str(launch.local_rank)
        env["MASTER_ADDR"], env["MASTER_PORT"] = launch.master_addr, str(launch.master_port)


def _from_slurm(env: Mapping[str, str]) -> Launch:
    """Read what srun sets. SLURM_STEP_NUM_TASKS is absent in a batch script, which is a single process."""
    master = env.get("MASTER_ADDR") or env.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1")
    if not env.get("MASTER_ADDR") and _number(env, "SLURM_STEP_NUM_NODES", 1) > 1:
        # rank 0 is not on the launching node if srun is called from a login node
        master = first_host(env["SLURM_STEP_NODELIST"])
    return Launch(
        _number(env, "SLURM_PROCID"), _number(env, "SLURM_STEP_NUM_TASKS"), _number(env, "SLURM_LOCALID"),
        _local_world_size(env), master, _port(env),
    )  # fmt: skip


def first_host(nodes: str) -> str:
    """Return the first host of a Slurm node list: ``gpu[003-005,9],login`` -> ``gpu003``."""
    prefix, bracket, rest = nodes.partition("[")
    if not bracket or "," in prefix:
        return prefix.split(",")[0]
    inside, _, suffix = rest.partition("]")
    return prefix + inside.replace("-", ",").split(",")[0] + suffix.split(",")[0]


def _mpi_names(env: Mapping[str, str]) -> tuple[str, str, str] | None:
    """Return the variables of the MPI launcher that started this process, if one did."""
    if env.get(OPEN_MPI[0]):
        return OPEN_MPI
    # srun may set PMI_RANK too; mpiexec in a Slurm job starts one srun task per node: SLURM_PROCID is not the rank
    if env.get(MPICH[0]) and env.get(MPICH[1]) != env.get("SLURM_STEP_NUM_TASKS"):
        return MPICH
    return None


def _from_mpi(env: Mapping[str, str], rank: str, world_size: str, local_rank: str) -> Launch:
    local, ranks = _local_world_size(env), _number(env, world_size, minimum=1)
    if ranks == 1:
        return Launch(local_world_size=local)
    master = env.get("MASTER_ADDR")
    if not master and local != ranks:
        raise UserError("MASTER_ADDR: not set; pass the host of rank 0 to mpirun: -x MASTER_ADDR=HOST")
    return Launch(
        _number(env, rank), ranks, _number(env, local_rank, _number(env, rank)), local, master or "127.0.0.1",
        _port(env),
    )  # fmt: skip


def _port(env: Mapping[str, str]) -> int:
    """Return MASTER_PORT; by default 20000 to 39999, equal on all ranks of a Slurm job."""
    return _number(env, "MASTER_PORT", 20000 + _number(env, "SLURM_JOB_ID", 0) % 20000)


def _local_world_size(env: Mapping[str, str]) -> int | None:
    return next((_number(env, name, minimum=1) for name in LOCAL_WORLD_SIZE if env.get(name)), None)


def _number(env: Mapping[str, str], name: str, default: int | None = None, minimum: int = 0) -> int:
    text = env.get(name) or ("" if default is None else str(default))
    if not text:
        raise UserError(f"{name}: not set; the launcher must set it")
    if not text.isdecimal() or int(text) < minimum:
        raise UserError(f"{name}: must be a whole number, {minimum} or more (given: {text})")
    return int(text)
