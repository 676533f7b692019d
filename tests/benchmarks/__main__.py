"""Run all benchmarks one after the other: print tables, and write text and JSON to a folder.

    python -m tests.benchmarks [--out benchmarks] [--only supernet growth] [--quick] [--device cuda]

This takes about two hours on one core. ``--quick`` takes a few minutes and only checks that the benchmarks run; its
timings are meaningless on a CPU. With ``--device cuda``, the benchmarks in ``ON_DEVICE`` use the GPU, and the others
run on the host (not yet run on a GPU).

``NAME.txt`` and ``NAME.json`` hold what a benchmark printed and measured; ``rows.jsonl`` holds the rows of all tables
of this command in one format: ``benchmark``, ``table``, ``row`` (the measured values) and ``where`` (card, driver,
versions, commit). A benchmark that fails or takes longer than ``--limit`` seconds is named at the end, after the
others have run, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.timing import where

QUICK = {
    "supernet": ["--batch", "2", "--rounds", "1", "--patches", "16"],
    "launches": [],
    "data": ["--rounds", "1"],
    "engine": ["zero1", "--steps", "3"],
    "search": ["--candidates", "60", "--population", "20", "--images", "100", "--steps", "20", "--sample", "2",
               "--large-images", "2"],
    "checkpoint": ["--millions", "1", "--rounds", "1"],
    "latency": ["quickstart", "search.latency_runtime=torch", "--nets", "12", "--test", "4", "--max-seconds", "0.1"],
    "growth": ["--nets", "4", "--batch", "2", "--rounds", "1", "--batches", "1", "2"],
    "rates": ["--rounds", "1", "--steps", "10"],
    "start": ["--rounds", "1"],
    "report": ["--candidates", "100", "--records", "10000"],
    "scale": [],
}  # fmt: skip
# A GPU needs larger batches: small ones only measure the launches. The most important ones come first.
QUICK_CUDA = QUICK | {
    "supernet": ["--batch", "128", "--rounds", "3", "--patches", "14", "16", "--dtypes", "bf16"],
    "data": ["--rounds", "10"],
    "engine": ["zero0", "zero1", "zero2", "zero3", "--batch", "128"],
    "checkpoint": ["--millions", "25", "--rounds", "3"],
    "latency": ["vitas_1g_bcnet", "--nets", "12", "--test", "8", "--max-seconds", "0.2"],
    "growth": ["--nets", "8", "--batch", "64", "--rounds", "2", "--batches", "32", "64", "--ranks", "1"],
}
FILES = {name: f"bench_{name}" for name in QUICK} | {"engine": "engine_overhead", "scale": "scale"}
COUNTS = ("launches", "scale")  # no timings: on a GPU node, --quick runs them on the host beside the others
ON_DEVICE = ("supernet", "launches", "data", "engine", "search", "checkpoint", "latency", "growth", "rates")


def main() -> int:
    """Parse the command line and run the selected benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks"), help="output folder")
    parser.add_argument("--only", nargs="+", choices=list(QUICK), default=list(QUICK))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="of a benchmark (default: none; quick: 300)")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks: --device cuda: no GPU is available; leave it out to run on the CPU", file=sys.stderr)
        return 2
    if find_spec("timm") is None:
        print("benchmarks: timm, the reference, is not installed; pip install -e '.[dev]'", file=sys.stderr)
        return 2
    args.limit = args.limit or (300 if args.quick else None)
    args.out.mkdir(parents=True, exist_ok=True)
    machine = where(torch.device(args.device))
    beside = [name for name in args.only if runs_beside(name, args)]
    failed = []
    with ThreadPoolExecutor(len(COUNTS)) as pool, (args.out / "rows.jsonl").open("w") as rows:
        jobs = {name: pool.submit(run, name, args, show=False) for name in beside}
        for name in [*(name for name in args.only if name not in beside), *beside]:
            problem = jobs[name].result() if name in beside else run(name, args)
            if name in beside:
                print((args.out / f"{name}.txt").read_text(), end="", flush=True)
            if problem:
                failed.append(f"{name} ({problem})")
            for row in read_rows(args.out / f"{name}.json", name, machine):
                rows.write(json.dumps(row) + "\n")
            rows.flush()
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def runs_beside(name: str, args: argparse.Namespace) -> bool:
    """Return whether a benchmark runs on the host while others use the GPU."""
    return name in COUNTS and args.quick and args.device == "cuda" and len(os.sched_getaffinity(0)) >= 4


def command_of(name: str, args: argparse.Namespace) -> list[str]:
    """Return the command line of a benchmark."""
    quick = QUICK_CUDA if args.device == "cuda" else QUICK
    command = [sys.executable, "-m", f"tests.benchmarks.{FILES[name]}", *(quick[name] if args.quick else [])]
    if name in ON_DEVICE and not runs_beside(name, args):
        command += ["--device", args.device]
    if name == "growth":
        return [*command, "--out", str(args.out / "growth")]
    return [*command, "--json", str(args.out / f"{name}.json")]


def run(name: str, args: argparse.Namespace, show: bool = True) -> str:
    """Run one benchmark and write its output to ``NAME.txt``; print it too if ``show``.

    Returns:
        What went wrong, or an empty string.
    """
    command = command_of(name, args)
    (args.out / f"{name}.json").unlink(missing_ok=True)  # the rows of an earlier command are not of this one
    print(f"\n== {' '.join(command[1:])}", flush=True)
    begin = time.perf_counter()
    # a session of its own, so the limit also ends its ranks
    job = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    late = threading.Event()
    timer = threading.Timer(args.limit or threading.TIMEOUT_MAX, lambda: (late.set(), _kill(job)))
    timer.daemon = True
    timer.start()
    try:
        _copy_output(job, args.out / f"{name}.txt", show)
        status = job.wait()
    finally:
        timer.cancel()
        if job.poll() is None:  # interrupted
            _kill(job)
    print(f"== {name}: {time.perf_counter() - begin:.1f} s", flush=True)
    if late.is_set():
        return f"longer than {args.limit:g} s"
    return f"exit status {status}" if status else ""


def _copy_output(job: subprocess.Popen[str], path: Path, show: bool) -> None:
    assert job.stdout is not None
    with path.open("w") as file:
        for line in job.stdout:
            if show:
                print(line, end="", flush=True)
            file.write(line)


def _kill(job: subprocess.Popen[str]) -> None:
    """Kill a benchmark and the processes it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(job.pid, signal.SIGKILL)


def read_rows(path: Path, name: str, machine: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a benchmark's JSON file, if it wrote one, in the common format."""
    if not path.exists():
        return
    result = json.loads(path.read_text())
    measured = result.get("where", machine)
    for table, rows in result.items():
        if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
            for row in rows:
                yield {"benchmark": name, "table": table, "row": row, "where": measured}
        elif isinstance(rows, dict) and table not in ("arguments", "where", "setting"):
            yield {"benchmark": name, "table": table, "row": rows, "where": measured}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the benchmark in progress too
    sys.exit(main())
