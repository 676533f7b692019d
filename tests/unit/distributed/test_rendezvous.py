"""Missing ranks and ranks on one GPU, with a real store on loopback.

Reference: the ranks that take part.
"""

from __future__ import annotations

import threading

import pytest

from tests.helpers.launching import free_port
from vitas_ds.distributed import console, rendezvous
from vitas_ds.distributed.comm import choose_gpu
from vitas_ds.distributed.launcher import Launch
from vitas_ds.errors import RankLost, UserError


@pytest.fixture
def port() -> int:
    return free_port()


def meet(port: int, size: int, devices: dict[int, str], timeout: float = 20) -> dict[int, object]:
    """Let ranks meet, each in a thread. Returns the exception of each rank, or its store."""
    found: dict[int, object] = {}

    def run(rank: int) -> None:
        try:
            found[rank] = rendezvous.join(Launch(rank, size, rank, size, "127.0.0.1", port), timeout, devices[rank])
        except (UserError, RankLost) as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in devices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    console.share_first(None)
    return found


def test_all_ranks_meet(port: int) -> None:
    found = meet(port, 3, {0: "a GPU-0", 1: "a GPU-1", 2: "b GPU-0"})
    found[0].set("key", "value")  # type: ignore[attr-defined]
    assert found[2].get("key") == b"value"  # type: ignore[attr-defined]


def test_missing_ranks_are_named(port: int) -> None:
    found = meet(port, 4, {0: "", 2: ""}, timeout=5)  # a busy machine may start rank 2 late
    assert str(found[0]) == str(found[2])
    assert "ranks 1, 3 did not start within run.timeout = 5 s (2 of 4 ranks did)" in str(found[0])


def test_without_rank_0(port: int) -> None:
    (error,) = meet(port, 2, {1: ""}, timeout=1).values()
    assert isinstance(error, RankLost)
    assert f"no answer from rank 0 at 127.0.0.1:{port} within run.timeout = 1 s" in str(error)


def test_two_ranks_on_one_gpu(port: int) -> None:
    found = meet(port, 3, {0: "a GPU-0", 1: "a GPU-1", 2: "a GPU-1"})
    for error in found.values():
        assert isinstance(error, UserError) and "ranks 1 and 2 use the same GPU (GPU-1 of a)" in str(error)


@pytest.mark.parametrize(
    ("local_rank", "visible", "index"),
    [(0, 8, 0), (3, 8, 3), (3, 1, 0), (0, 1, 0)],
    ids=["all visible", "all visible, rank 3", "its own GPU only", "one GPU"],
)
def test_gpu_of_a_rank(local_rank: int, visible: int, index: int) -> None:
    assert choose_gpu(local_rank, visible) == index


def test_more_ranks_than_gpus() -> None:
    with pytest.raises(UserError, match=r"^run.device: local rank 2 has no GPU, this process sees 2; "):
        choose_gpu(2, 2)
