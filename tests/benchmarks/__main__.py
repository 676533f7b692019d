"""Run all benchmarks one after the other: print tables, and write text and JSON to a folder.

    python -m tests.benchmarks [--out benchmarks] [--only supernet growth] [--quick] [--device cuda]

This takes about two hours on one core. ``--quick`` takes a few minutes and only checks that the benchmarks run; its
timings are meaningless. With ``--device cuda``, the benchmarks that support it use the GPU (not yet run on a GPU). The
exit status is 1 if a benchmark failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

QUICK = {
    "supernet": ["--batch", "2", "--rounds", "1"],
    "growth": ["--nets", "4", "--batch", "2", "--rounds", "1", "--batches", "1", "2"],
    "rates": ["--rounds", "1", "--steps", "10"],
    "start": ["--rounds", "1"],
    "search": ["--candidates", "60", "--population", "20", "--images", "100", "--steps", "20", "--sample", "2",
               "--large-images", "2"],
    "data": ["--images", "150", "--rounds", "1"],
    "engine": ["zero1"],
    "launches": [],
    "checkpoint": ["--millions", "1", "--rounds", "1"],
    "latency": ["quickstart", "search.latency_runtime=torch", "--nets", "12", "--test", "4", "--max-seconds", "0.1"],
}  # fmt: skip
FILES = {name: f"bench_{name}" for name in QUICK} | {"engine": "engine_overhead"}
ON_DEVICE = ("supernet", "growth", "checkpoint", "latency")


def main() -> int:
    """Parse the command line and run the selected benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks"), help="output folder")
    parser.add_argument("--only", nargs="+", choices=list(QUICK), default=list(QUICK))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    failed = [name for name in args.only if run(name, args)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def run(name: str, args: argparse.Namespace) -> int:
    """Run one benchmark; print its output and write it to ``NAME.txt``. Return its exit status."""
    command = [sys.executable, "-m", f"tests.benchmarks.{FILES[name]}", *(QUICK[name] if args.quick else [])]
    if name in ON_DEVICE:
        command += ["--device", args.device]
    if name == "growth":
        command += ["--out", str(args.out / "growth")]
    elif name not in ("data", "engine"):
        command += ["--json", str(args.out / f"{name}.json")]
    print(f"\n== {' '.join(command[1:])}", flush=True)
    job = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    with (args.out / f"{name}.txt").open("w") as file:
        for line in job.stdout:
            print(line, end="", flush=True)
            file.write(line)
    return job.wait()


if __name__ == "__main__":
    sys.exit(main())
