"""Start workers and stages under a real launcher, on a free port, in their own process group, with a time limit."""

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
    """Return a free TCP port."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a job on the CPU, without the ranks of a surrounding job."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")}
    path = f"{BIN}:{inherited.get('PATH', '')}"
    extra = {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    return inherited | extra | more


def command(launcher: str, ranks: int) -> list[str]:
    """Return the command line of a launcher, up to its program."""
    port = str(free_port())
    if launcher == "deepspeed":
        return [str(BIN / "deepspeed"), "--master_port", port, "--num_gpus", str(ranks)]
    if launcher == "torchrun":
        return [sys.executable, "-m", "torch.distributed.run", "--master_port", port, "--nproc_per_node", str(ranks)]
    assert launcher == "alone" and ranks == 1
    return [sys.executable]


def launch(out: Path, task: str, *args: str, ranks: int = 2, launcher: str = "torchrun", limit: float = 180) -> Any:
    """Run a task of worker.py and return its result on rank 0.

    The default is torchrun because it starts 6 CPU-seconds faster than the deepspeed launcher, which the tests of the
    stages use.

    Raises:
        AssertionError: The job failed or took longer than ``limit`` seconds. The message holds its output.
    """
    job, args = start_task(out, task, *args, ranks=ranks, launcher=launcher)
    wait_for_process(job, args, limit)
    return json.loads(out.read_text())["result"]


def start_task(
    out: Path, task: str, *args: str, ranks: int = 2, launcher: str = "deepspeed"
) -> tuple[subprocess.Popen[str], list[str]]:
    """Start a task of worker.py. Returns the process and its command line."""
    args = [*command(launcher, ranks), str(WORKER), str(out), task, *args]
    return start_process(args, environment()), args


def slurm(out: Path, task: str, ranks: int = 2, limit: float = 120) -> Any:
    """Run a task as srun starts it: one process per task, with Slurm's variables in the environment."""
    shared = {
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_STEP_NUM_TASKS": str(ranks),
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    args = [sys.executable, str(WORKER), str(out), task]
    environments = [environment(**shared, SLURM_PROCID=str(r), SLURM_LOCALID=str(r)) for r in range(ranks)]
    jobs = [start_process(args, env) for env in environments]
    for job in jobs:
        wait_for_process(job, args, limit)
    return json.loads(out.read_text())["result"]


def start_process(args: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
    """Start a command in its own session, with stdout and stderr in one pipe."""
    return subprocess.Popen(
        args, env=env, cwd=ROOT, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def wait_for_process(job: subprocess.Popen[str], args: list[str], limit: float) -> str:
    """Return the output of a process. Fails if its exit status is not 0 or after ``limit`` seconds."""
    try:
        output, _ = job.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        raise AssertionError(f"{' '.join(args)} took longer than {limit} s:\n{job.communicate()[0][-4000:]}") from None
    assert job.returncode == 0, f"{' '.join(args)} ended with {job.returncode}:\n{output[-6000:]}"
    return output


COMMANDS = """
import contextlib, io, json, sys
from vitas_ds.__main__ import main
for args in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(args)
    print(json.dumps([args, status, out.getvalue(), err.getvalue()]), flush=True)
"""


def run_commands(*commands: list[str], limit: float = 240) -> list[subprocess.CompletedProcess[str]]:
    """Run commands of vitas_ds one after another in one process, whatever their exit status.

    One process instead of several saves the imports of each start, several CPU-seconds.
    """
    line = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    done = subprocess.run(line, env=environment(), cwd=ROOT, text=True, capture_output=True, timeout=limit)
    assert done.returncode == 0, done.stdout + done.stderr
    return [subprocess.CompletedProcess(*json.loads(row)) for row in done.stdout.splitlines()]


def stage_command(name: str, args: list[str], launcher: str = "deepspeed", ranks: int = 2) -> list[str]:
    """Return the command line of a stage under a launcher. With ``vitas``, torchrun starts the console script."""
    if launcher == "vitas":
        return [*command("torchrun", ranks), "--no-python", str(BIN / "vitas"), name, *args]
    start = command(launcher, ranks)
    start += ["--log_level", "error", "--module"] if launcher == "deepspeed" else ["-m"]
    return [*start, "vitas_ds", name, *args]


def run_stage(name: str, args: list[str], launcher: str = "deepspeed", ranks: int = 2, limit: float = 240) -> str:
    """Run a stage under a launcher and return its output. Fails like `wait_for_process`."""
    line = stage_command(name, args, launcher, ranks)
    return wait_for_process(start_process(line, environment()), line, limit)
