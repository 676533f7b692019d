"""Where the ranks of a job meet before its first collective. A missing rank ends the job with one line.

torch's own rendezvous waits inside C++, where no signal is handled, and prints stack traces.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import NoReturn

import torch.distributed as dist

from vitas_ds.distributed import console, launcher, network
from vitas_ds.distributed.launcher import Launch
from vitas_ds.errors import RankLost, UserError

POLL = 0.1  # seconds
CONNECT = 20  # seconds for the first exchange with a server that accepted the connection
SHOWN = 8  # missing ranks named in a line


def join(launch: Launch, timeout: float, device: str) -> dist.Store:
    """Wait for all ranks, and return their common store.

    Args:
        launch: Position of this rank.
        timeout: Time limit in seconds.
        device: Identity of this rank's GPU; empty if it has none.

    Raises:
        UserError: The master cannot be resolved, its port is in use, or two ranks use the same GPU.
        RankLost: A rank is missing. The line has been printed.
    """
    deadline = time.monotonic() + timeout
    # torchrun hosts the store, and keeps it when it restarts the ranks
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"vitas_ds/{attempt}", _connect(launch, deadline, timeout))
    console.share_first(lambda: _first_of_job(store))
    try:
        verdict = _meet(store, launch, deadline, timeout, device)
    except dist.DistError:  # rank 0 has ended and printed why, or its launcher will report it
        raise RankLost(f"rank {launch.rank}: rank 0 ended while the ranks were starting") from None
    if verdict.startswith("user:"):
        raise UserError(verdict.removeprefix("user:"))
    if verdict:
        lost(verdict)
    return store


def lost(reason: str) -> NoReturn:
    """Print why the ranks cannot start, and raise ``RankLost``."""
    console.print_once(f"vitas: {reason}")
    raise RankLost(reason)


def _first_of_job(store: dist.Store) -> bool:
    try:
        return store.add("reports", 1) == 1
    except dist.DistError:  # rank 0 has ended
        return console.first_of_node()


def _connect(launch: Launch, deadline: float, timeout: float) -> dist.Store:
    """Create the store on rank 0, and connect to it on the others."""
    host, port = launch.master_addr or "", launch.master_port or 0
    if not 0 < port < 1 << 16:
        raise UserError(f"MASTER_PORT: must be 1 to 65535 (given: {port})")
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # by torchrun
    if launch.rank == 0 and not hosted:
        sock = network.listen(host, port, launcher.one_node(launch))
        return _store(host, port, timeout, sock.detach())
    network.resolve(host)
    while not network.answers(host, port, min(CONNECT, max(1.0, deadline - time.monotonic()))):
        if time.monotonic() > deadline:
            _no_answer(launch, timeout)
        time.sleep(POLL * 3)
    return _store(host, port, timeout)


def _store(host: str, port: int, timeout: float, listener: int | None = None) -> dist.TCPStore:
    """Create a store. In a thread: a server that is not ours may keep it waiting for long."""
    limit, is_server = timedelta(seconds=CONNECT), listener is not None
    found: list[dist.TCPStore] = []

    def create() -> None:
        with suppress(dist.DistError):
            store = dist.TCPStore(host, port, None, is_server, limit, wait_for_workers=False, master_listen_fd=listener)
            store.set_timeout(timedelta(seconds=timeout))  # of a rank that waits for another one in a collective
            found.append(store)

    thread = threading.Thread(target=create, name="rendezvous", daemon=True)
    thread.start()
    thread.join(CONNECT)
    if not found:
        raise UserError(f"MASTER_PORT: what answers at {host}:{port} is not rank 0 of this job; set MASTER_PORT "
                        "(deepspeed: --master_port) to a free port")  # fmt: skip
    return found[0]


def _no_answer(launch: Launch, timeout: float) -> NoReturn:
    """Print that rank 0 is missing and raise ``RankLost``."""
    lost(
        f"rank {launch.rank}: no answer from rank 0 at {launch.master_addr}:{launch.master_port} within "
        f"run.timeout = {timeout:g} s; check that its node has started, and that no firewall blocks the port"
    )


def _meet(store: dist.Store, launch: Launch, deadline: float, timeout: float, device: str) -> str:
    """Announce this rank, and return rank 0's verdict: why the ranks cannot start, or an empty text."""
    store.set(f"rank {launch.rank}", device)
    if launch.rank == 0:
        verdict = _verdict(store, launch, deadline, timeout)
        store.set("verdict", verdict or "start")
        if verdict:
            time.sleep(5 * POLL)  # the store ends with this process; the others read it first
        return verdict
    while not store.check(["verdict"]):
        if time.monotonic() > deadline + CONNECT:  # rank 0 lives, but does not answer
            _no_answer(launch, timeout)
        time.sleep(POLL)
    verdict = store.get("verdict").decode()
    return "" if verdict == "start" else verdict


def _verdict(store: dist.Store, launch: Launch, deadline: float, timeout: float) -> str:
    """Wait for the other ranks; return who is missing, or which ranks share a GPU."""
    missing = list(range(launch.world_size))
    while True:
        missing = [rank for rank in missing if not store.check([f"rank {rank}"])]
        if not missing:
            break
        if time.monotonic() > deadline:
            return (
                f"{_names(missing)} did not start within run.timeout = {timeout:g} s ("
                f"{launch.world_size - len(missing)} of {launch.world_size} ranks did); check the launcher's output "
                "on their nodes"
            )
        time.sleep(POLL)
    users: dict[str, int] = {}
    for rank in range(launch.world_size):
        device = store.get(f"rank {rank}").decode()
        other = users.setdefault(device, rank)
        if device and other != rank:
            host, _, uuid = device.partition(" ")
            return (
                f"user:run.device: ranks {other} and {rank} use the same GPU ({uuid} of {host}); start at most one "
                "rank per GPU, or show each rank its own (Slurm: --gpus-per-task=1)"
            )
    return ""


def _names(ranks: list[int]) -> str:
    more = f" and {len(ranks) - SHOWN} more" if len(ranks) > SHOWN else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks[:SHOWN]))}{more}"
