"""Device, CPU threads, and a job of one process. Several ranks run in tests/distributed.

Reference: values by hand.
"""

from __future__ import annotations

import pytest
import torch

from vitas_ds.distributed import comm
from vitas_ds.distributed.comm import _cpu_share, _device
from vitas_ds.distributed.launcher import read
from vitas_ds.errors import UserError


def test_cpu_share() -> None:
    whole = _cpu_share(read({}))
    assert whole >= 1
    assert _cpu_share(read({"LOCAL_WORLD_SIZE": "2"})) == max(1, whole // 2)
    assert _cpu_share(read({"LOCAL_SIZE": "1000"})) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_missing_gpu() -> None:
    with pytest.raises(UserError, match=r"run\.device"):
        _device("cuda", 0)
    assert _device("auto", 0) == torch.device("cpu")


def test_one_process() -> None:
    ranks = comm.init("cpu", timeout=60)
    assert (ranks.rank, ranks.world_size, ranks.is_main) == (0, 1, True)
    assert comm.broadcast({"a": 1}) == {"a": 1}
    assert comm.gather(3) == [3]
    assert float(comm.all_sum(torch.tensor(2.0))) == 2
    comm.barrier()
    with pytest.raises(ZeroDivisionError):
        comm.from_main(lambda: 1 // 0)
