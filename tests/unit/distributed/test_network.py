"""Interfaces and listening sockets.

Reference: /proc/net/tcp of this machine.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.launching import free_port
from vitas_ds.distributed import network
from vitas_ds.distributed.launcher import Launch, one_node
from vitas_ds.errors import UserError

VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def interfaces(launch: Launch, **env: str) -> list[str | None]:
    network.choose_interface(launch, env)
    return [env.get(name) for name in VARIABLES]


def listening(port: int) -> list[str]:
    """Return the addresses on which a port listens."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row[1].split(":")[0] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port]


def test_one_node_uses_loopback() -> None:
    assert interfaces(Launch(1, 2, 1, 2, "127.0.0.1", 1)) == ["lo", "=lo"]
    assert interfaces(Launch(1, 2, 1, 2, "10.0.0.7", 1)) == ["lo", "=lo"]  # all ranks are here
    assert interfaces(Launch()) == [None, None]


def test_values_of_the_user_remain() -> None:
    launch = Launch(1, 2, 1, 2, "127.0.0.1", 1)
    assert interfaces(launch, GLOO_SOCKET_IFNAME="ib0") == ["ib0", "=lo"]
    assert interfaces(launch, GLOO_SOCKET_IFNAME="a", NCCL_SOCKET_IFNAME="b") == ["a", "b"]


def test_several_nodes_use_the_route_to_rank_0() -> None:
    """Reference: the kernel's routing table."""
    routes = [line.split() for line in Path("/proc/net/route").read_text().splitlines()[1:]]
    default = [row[0] for row in routes if row[1] == "00000000"]
    if not default:
        pytest.skip("needs a default route")
    assert interfaces(Launch(8, 16, 0, 8, "192.0.2.7", 1)) == [default[0], f"={default[0]}"]


def test_one_node_by_launcher() -> None:
    launch = Launch(1, 4, 1, None, "n1", 1)
    assert not one_node(launch, {})
    step = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"}
    assert one_node(launch, step | {"SLURM_STEP_NUM_NODES": "1"})
    assert not one_node(launch, step | {"SLURM_STEP_NUM_NODES": "2"})
    assert not one_node(Launch(1, 4, 1, 2, "n1", 1), {})


def test_rank_0_listens_on_the_address_of_the_master() -> None:
    port = free_port()
    with network.listen("localhost", port, one_node=True):
        assert listening(port) == ["0100007F"]
        with pytest.raises(UserError, match=rf"^MASTER_PORT: {port} of localhost is in use by another process; "):
            network.listen("localhost", port, one_node=True)
    with network.listen("localhost", port, one_node=False):  # the other nodes resolve this name otherwise
        assert listening(port) == ["00000000"]
    with pytest.warns(UserWarning, match="no address of this host"), network.listen("192.0.2.7", port, one_node=False):
        assert listening(port) == ["00000000"]


def test_an_unknown_master() -> None:
    with pytest.raises(UserError, match=r"^MASTER_ADDR: no-such-host.invalid cannot be resolved on "):
        network.resolve("no-such-host.invalid", retry=0)
