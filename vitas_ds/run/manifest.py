"""The manifest of a run: which command was started when, with which versions."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from vitas_ds.distributed import launcher

PACKAGES = ("torch", "torchvision", "deepspeed", "nvidia-dali-cuda130", "pymoo", "numpy", "wandb")


def start_entry(stage: str, world_size: int) -> dict[str, Any]:
    """A manifest entry: what is started now, by which command, on what."""
    return {
        "stage": stage,
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": [os.path.basename(sys.executable), *sys.orig_argv[1:]],
        "folder": os.getcwd(),
        "world_size": world_size,
        "local_world_size": min(launcher.read().local_world_size or world_size, world_size),
        "git": git_commit(),
        "versions": {"python": platform.python_version()} | {name: version_of(name) for name in PACKAGES},
        "machine": {"host": platform.node(), "system": platform.platform(), "cores": os.cpu_count()},
    }


def version_of(package: str) -> str | None:
    """The installed version of a package, without importing it; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Commit of the checkout that this package runs from, ``+changes`` if files differ; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("rev-parse", "--show-toplevel") != str(root):  # installed into a folder of some other repository
        return None
    commit = git("rev-parse", "HEAD")
    return commit and commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
