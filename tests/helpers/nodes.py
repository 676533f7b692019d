"""Simulated nodes on one machine: each has its own network, process, host name and mount namespace, and an sshd."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

DEVICE = "vitas0"
CONFIG = """\
Port 22
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
"""
SSH = """\
#!/bin/sh
exec {ssh} -F none -i {folder}/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "$@"
"""


def unavailable() -> str:
    """Return the reason why nodes cannot run here; empty if they can."""
    missing = [tool for tool in ("unshare", "nsenter", "ip", "sshd", "ssh", "ssh-keygen", "pdsh") if not _which(tool)]
    if missing:
        return f"needs {', '.join(missing)}"
    args = ["unshare", "--net", "--pid", "--fork", "--mount", "--mount-proc", "--uts", "ip", "link", "add", "probe0",
             "type", "veth", "peer", "name", "probe1"]  # fmt: skip
    tried = subprocess.run(args, capture_output=True, text=True)
    return f"namespaces are not allowed: {tried.stderr.strip()}" if tried.returncode else ""


def _which(tool: str) -> str | None:
    return shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def prepare(folder: Path) -> None:
    """Write keys, an sshd configuration, and an ssh command that uses them into ``folder``."""
    for name in ("key", "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "sshd_config").write_text(CONFIG.format(folder=folder))
    (folder / "bin").mkdir()
    (folder / "bin" / "ssh").write_text(SSH.format(ssh=_which("ssh"), folder=folder))
    (folder / "bin" / "ssh").chmod(0o755)


class Node:
    """A running node with an address in 10.77.0.0/24."""

    def __init__(self, folder: Path, name: str, address: str) -> None:
        self.name, self.address = name, address
        script = (
            f"hostname {name}; mount -t tmpfs none /run; mkdir /run/sshd; ip link set lo up; "
            f"exec {_which('sshd')} -D -e -f {folder}/sshd_config"
        )
        flags = ["--net", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--uts"]
        with (folder / f"{name}.log").open("a") as log:
            self.holder = subprocess.Popen(["unshare", *flags, "sh", "-c", script], stdout=log, stderr=log)
        self.init = self._init()

    def _init(self) -> str:
        """Return the id of the node's first process, as seen from outside."""
        children = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children")
        limit = time.monotonic() + 20
        while not children.read_text().split():
            assert time.monotonic() < limit and self.holder.poll() is None, f"{self.name} does not start"
            time.sleep(0.02)
        return children.read_text().split()[0]

    def command_line(self, *command: str) -> list[str]:
        """Return the command line that runs a command in the node."""
        return ["nsenter", "-t", self.init, "--net", "--pid", "--mount", "--uts", "--", *command]

    def unplug(self) -> None:
        """Disconnect the node: nothing from it arrives, not even the end of its connections."""
        subprocess.run(self.command_line("ip", "link", "set", DEVICE, "down"), check=True)

    def switch_off(self) -> None:
        """Kill all processes of the node at once."""
        with suppress(ProcessLookupError):
            os.kill(int(self.init), signal.SIGKILL)
        self.holder.wait(30)


def connect(one: Node, two: Node, name: str) -> None:
    """Connect two nodes by a cable and wait until both answer.

    Args:
        one: First node.
        two: Second node.
        name: Prefix of the interface names until they move into the nodes.
    """
    ends = (f"{name}a", f"{name}b")
    subprocess.run(["ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1]], check=True)
    for node, end in zip((one, two), ends, strict=True):
        # An earlier cable may have left a device.
        subprocess.run(node.command_line("ip", "link", "delete", DEVICE), capture_output=True)
        subprocess.run(["ip", "link", "set", end, "netns", node.init, "name", DEVICE], check=True)
        subprocess.run(node.command_line("ip", "addr", "add", f"{node.address}/24", "dev", DEVICE), check=True)
        subprocess.run(node.command_line("ip", "link", "set", DEVICE, "up"), check=True)
    limit = time.monotonic() + 30
    for node in (one, two):
        port = ["bash", "-c", f"exec 3<>/dev/tcp/{node.address}/22"]
        while subprocess.run(one.command_line(*port), capture_output=True).returncode:
            assert time.monotonic() < limit, f"no sshd on {node.name}"
            time.sleep(0.1)
