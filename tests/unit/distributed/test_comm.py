"""How a rank learns who it is. What ranks say to each other is in tests/distributed."""

from __future__ import annotations

import pytest
import torch

from vitas_ds.distributed import comm
from vitas_ds.distributed.comm import _adopt_slurm, _cpu_share, _device, first_host
from vitas_ds.errors import UserError

STEP = {
    "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[003-004]", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.9", "SLURM_JOB_ID": "123456",
}  # fmt: skip


def test_srun() -> None:
    env = dict(STEP)
    _adopt_slurm(env)
    assert (env["RANK"], env["WORLD_SIZE"], env["LOCAL_RANK"]) == ("5", "8", "1")
    assert env["MASTER_ADDR"] == "gpu003" and 1024 < int(env["MASTER_PORT"]) < 65536


def test_srun_leaves_what_is_said_already() -> None:
    env = STEP | {"MASTER_ADDR": "head", "MASTER_PORT": "29500"}
    _adopt_slurm(env)
    assert (env["MASTER_ADDR"], env["MASTER_PORT"]) == ("head", "29500")
    env = STEP | {"RANK": "0", "WORLD_SIZE": "2"}  # torchrun inside an allocation
    _adopt_slurm(env)
    assert (env["RANK"], env["WORLD_SIZE"]) == ("0", "2")


def test_a_batch_script_without_srun_is_alone() -> None:
    env = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}
    _adopt_slurm(env)
    assert "RANK" not in env


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("node1", "node1"), ("a,b", "a"), ("gpu[003-005,9],login", "gpu003"), ("n[7,9]", "n7"),
     ("n[1-2].x.org", "n1.x.org"),
     ("a,n[1-2]", "a")],
)  # fmt: skip
def test_first_host(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


def test_cpu_share() -> None:
    whole = _cpu_share({})
    assert whole >= 1
    assert _cpu_share({"LOCAL_WORLD_SIZE": "2"}) == max(1, whole // 2)
    assert _cpu_share({"LOCAL_SIZE": "1000"}) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that must be absent")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"run\.device"):
        _device("cuda", 0)
    assert _device("auto", 0) == torch.device("cpu")


def test_alone() -> None:
    ranks = comm.init("cpu", timeout=60)
    assert (ranks.rank, ranks.world_size, ranks.is_main) == (0, 1, True)
    assert comm.broadcast({"a": 1}) == {"a": 1}
    assert comm.gather(3) == [3]
    assert float(comm.all_sum(torch.tensor(2.0))) == 2
    comm.barrier()
    with pytest.raises(ZeroDivisionError):
        comm.from_main(lambda: 1 // 0)
