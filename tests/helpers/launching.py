"""Start ``worker.py`` under a real launcher, on a free port, in a process group of its own, with a time limit."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.helpers.paths import ROOT

WORKER = ROOT / "tests" / "distributed" / "worker.py"
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def environment(**more: str) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")}
    path = f"{BIN}:{inherited.get('PATH', '')}"
    extra = {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    return inherited | extra | more


def command(launcher: str, ranks: int) -> list[str]:
    port = str(free_port())
    if launcher == "deepspeed":
        return [str(BIN / "deepspeed"), "--master_port", port, "--num_gpus", str(ranks)]
    if launcher == "torchrun":
        return [sys.executable, "-m", "torch.distributed.run", "--master_port", port, "--nproc_per_node", str(ranks)]
    assert launcher == "alone" and ranks == 1
    return [sys.executable]


def launch(out: Path, task: str, *args: str, ranks: int = 2, launcher: str = "torchrun", limit: float = 180) -> Any:
    """What the task returned on rank 0; fails with the job's output if it did not end well in time.

    torchrun starts 6 CPU-seconds sooner than the deepspeed launcher, under which the stages are tested.
    """
    job, words = begin_task(out, task, *args, ranks=ranks, launcher=launcher)
    end(job, words, limit)
    return json.loads(out.read_text())["result"]


def begin_task(
    out: Path, task: str, *args: str, ranks: int = 2, launcher: str = "deepspeed"
) -> tuple[subprocess.Popen[str], list[str]]:
    """A task that runs on its own, and the words that started it."""
    words = [*command(launcher, ranks), str(WORKER), str(out), task, *args]
    return begin(words, environment()), words


def slurm(out: Path, task: str, ranks: int = 2, limit: float = 120) -> Any:
    """The same as srun would start it: one process a task, and SLURM's own words in the environment."""
    shared = {
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_STEP_NUM_TASKS": str(ranks),
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    words = [sys.executable, str(WORKER), str(out), task]
    jobs = [begin(words, environment(**shared, SLURM_PROCID=str(r), SLURM_LOCALID=str(r))) for r in range(ranks)]
    for job in jobs:
        end(job, words, limit)
    return json.loads(out.read_text())["result"]


def finish(words: list[str], env: dict[str, str], limit: float) -> str:
    """Run a command to its good end; its output."""
    return end(begin(words, env), words, limit)


def begin(words: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words, env=env, cwd=ROOT, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def end(job: subprocess.Popen[str], words: list[str], limit: float) -> str:
    try:
        output, _ = job.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        raise AssertionError(f"{' '.join(words)} took longer than {limit} s:\n{job.communicate()[0][-4000:]}") from None
    assert job.returncode == 0, f"{' '.join(words)} ended with {job.returncode}:\n{output[-6000:]}"
    return output


def stage_words(name: str, words: list[str], launcher: str = "deepspeed", ranks: int = 2) -> list[str]:
    """The command line of a stage under a launcher."""
    start = command(launcher, ranks)
    start += ["--log_level", "error", "--module"] if launcher == "deepspeed" else ["-m"]
    return [*start, "vitas_ds", name, *words]


def run_stage(name: str, words: list[str], launcher: str = "deepspeed", ranks: int = 2, limit: float = 240) -> str:
    """Run a stage to its good end; returns what it printed."""
    line = stage_words(name, words, launcher, ranks)
    return end(begin(line, environment()), line, limit)
