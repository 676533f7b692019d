"""Addresses and interfaces of a job. Sockets listen on the interface of the ranks, not on all of the machine.

Importing this module does not import torch.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import time
import warnings
from collections.abc import MutableMapping
from ipaddress import ip_address

from vitas_ds.distributed.launcher import Launch, one_node
from vitas_ds.errors import UserError

RETRY = 10  # seconds in which a name may fail to resolve: a node that just booted, a busy name server
SIOCGIFADDR = 0x8915  # from linux/sockios.h
OUTSIDE = ("192.0.2.1", 9)  # reserved for documentation; a route to it is the default route
VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
BACKLOG = 2048  # connections of ranks that wait to be accepted

Address = tuple[socket.AddressFamily, str]


def choose_interface(launch: Launch, env: MutableMapping[str, str] = os.environ) -> None:
    """Set the network interface of gloo and NCCL, unless the user has: the one towards rank 0, loopback on one node.

    Raises:
        UserError: MASTER_ADDR cannot be resolved.
    """
    if launch.master_addr is None or all(env.get(name) for name in VARIABLES):
        return
    name = "lo" if one_node(launch, env) else _interface(_towards(resolve(launch.master_addr)))
    if name:  # else an unusual network: gloo and NCCL choose
        env.setdefault("GLOO_SOCKET_IFNAME", name)
        env.setdefault("NCCL_SOCKET_IFNAME", f"={name}")  # without "=" it is a prefix: eth1 means eth10, too


def resolve(host: str, retry: float = RETRY) -> Address:
    """Return the address of MASTER_ADDR, IPv4 if it has one.

    Raises:
        UserError: It has none.
    """
    deadline = time.monotonic() + retry
    while True:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
            return family, str(address[0])
        except (OSError, UnicodeError) as error:
            if time.monotonic() > deadline:
                reason = getattr(error, "strerror", None) or error
                raise UserError(f"MASTER_ADDR: {host} cannot be resolved on {socket.gethostname()} ({reason}); use a "
                                "name that all nodes know, or an address") from None  # fmt: skip
            time.sleep(0.5)


def listen(host: str, port: int, one_node: bool) -> socket.socket:
    """Return a socket that listens on the address of MASTER_ADDR. Only rank 0 calls this.

    Raises:
        UserError: The port is in use or not allowed.
    """
    family, address = resolve(host)
    if not one_node and ip_address(address).is_loopback:
        # Debian's /etc/hosts names the own host 127.0.1.1, which the other nodes do not see
        address = ""
    sock = _listener(family, address, port, host)
    if sock is None:  # an address in front of this host, as of a Kubernetes service
        warnings.warn(f"MASTER_ADDR: {host} is no address of this host, so port {port} listens on all interfaces",
                      stacklevel=2)  # fmt: skip
        sock = _listener(family, "", port, host)
    assert sock is not None
    return sock


def _listener(family: socket.AddressFamily, address: str, port: int, host: str) -> socket.socket | None:
    """Return a listening socket; None if the address belongs to another host."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier start may linger
        sock.bind((address, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRNOTAVAIL and address:
            return None
        reason = "in use by another process" if error.errno == errno.EADDRINUSE else error.strerror
        raise UserError(f"MASTER_PORT: {port} of {host} is {reason}; set MASTER_PORT (deepspeed: --master_port) to a "
                        "free port") from None  # fmt: skip
    return sock


def answers(host: str, port: int, seconds: float) -> bool:
    """Return whether a process accepts connections at an address."""
    try:
        with socket.create_connection((host, port), seconds):
            return True
    except OSError:
        return False


def _towards(target: Address) -> str:
    """Return the address of this host on the network of ``target``; empty without a route."""
    family, address = target
    if ip_address(address).is_loopback:  # rank 0's host by its own name
        target, family = (socket.AF_INET, OUTSIDE[0]), socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((target[1], OUTSIDE[1]))  # sends nothing
            return str(sock.getsockname()[0])
        except OSError:
            return ""


def _interface(address: str) -> str:
    """Return the name of the interface with an address; empty if there is none."""
    if not address:
        return ""
    wanted = ip_address(address.partition("%")[0])
    if wanted.is_loopback:
        return "lo"
    if wanted.version == 6:
        return _interface_v6(wanted.exploded.replace(":", ""))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            try:
                request = fcntl.ioctl(sock.fileno(), SIOCGIFADDR, struct.pack("256s", name[:15].encode()))
            except OSError:  # an interface without an address
                continue
            if request[20:24] == wanted.packed:
                return name
    return ""


def _interface_v6(digits: str) -> str:
    try:
        with open("/proc/net/if_inet6") as lines:
            return next((line.split()[5] for line in lines if line.split()[0] == digits), "")
    except OSError:
        return ""
