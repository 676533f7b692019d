"""The manifest of a run lists its starts: command, versions, git commit and machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from vitas_ds.distributed import launcher
from vitas_ds.errors import UserError
from vitas_ds.run.files import read_json
from vitas_ds.run.run_dir import RunDir

PACKAGES = ("torch", "torchvision", "deepspeed", "nvidia-dali-cuda130", "pymoo", "numpy", "wandb")


def read_starts(run: RunDir) -> list[dict[str, Any]]:
    """Return the entries of the manifest, oldest first; none without a manifest.

    Raises:
        UserError: The file is not a manifest.
    """
    data = read_json(run.manifest, None) if run.manifest.exists() else {"starts": []}
    starts = data.get("starts") if isinstance(data, dict) else None
    if not isinstance(starts, list) or not all(isinstance(s, dict) and isinstance(s.get("stage"), str) for s in starts):
        raise UserError(f"{run.manifest}: damaged, does not list starts; move it away, a stage writes a new one")
    return starts


def start_entry(stage: str, world_size: int) -> dict[str, Any]:
    """Return the manifest entry of this start."""
    return {
        "stage": stage,
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": [os.path.basename(sys.executable), *sys.orig_argv[1:]],
        "overrides": overrides(sys.argv[1:]),
        "folder": os.getcwd(),
        "world_size": world_size,
        # Slurm's tasks per node are those of the job; this step may have fewer
        "local_world_size": min(launcher.read().local_world_size or world_size, world_size),
        "git": git_commit(),
        "versions": {"python": platform.python_version()} | {name: version_of(name) for name in PACKAGES},
        "machine": {"host": platform.node(), "system": platform.platform(), "cores": os.cpu_count()},
    }


def gpu_of(device: str) -> dict[str, str]:
    """Return the GPU of a job with this ``run.device``, as a fact of its machine; empty without one."""
    torch = sys.modules.get("torch")
    if device == "cpu" or torch is None or not torch.cuda.is_available():
        return {}
    return {"gpu": torch.cuda.get_device_name()}


def overrides(words: list[str]) -> list[str]:
    """Return the overrides, ``section.key=value``, among the words of a command line."""
    return [word for word in words if re.match(r"[a-z_]+(\.[a-z_0-9]+)+=", word)]


def version_of(package: str) -> str | None:
    """Return the installed version of a package without importing it, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Return the commit of this checkout, with ``+changes`` if tracked files are modified; None without a checkout."""
    root = Path(__file__).resolve().parents[2]
    if _git(root, "rev-parse", "--show-toplevel") != str(root):  # installed below another repository
        return None
    commit = _git(root, "rev-parse", "HEAD")
    return commit and commit + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")


def _git(root: Path, *args: str) -> str | None:
    """Return the output of a git command, or None if it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *args], capture_output=True, text=True, timeout=20, check=False
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
