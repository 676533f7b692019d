"""Start a launch script, and read the printed commands."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT


def launch(script: str, *args: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess:
    """Run a launch script. The test is skipped in a checkout without .venv, except that of test.sh."""
    if script != "test.sh" and not (ROOT / ".venv" / "bin" / "python").exists():
        pytest.skip(f"{ROOT / '.venv'} is missing; launch/test.sh creates it")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "WANDB_"))} | env
    command = ["bash", str(ROOT / "launch" / script), *args]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=env, timeout=120)


def commands(done: subprocess.CompletedProcess) -> list[list[str]]:
    assert done.returncode == 0, done.stderr
    return [shlex.split(line[2:]) for line in done.stdout.splitlines() if line.startswith("+ ")]
