"""All benchmarks, one after the other: tables on the screen, text and JSON in a folder.

    python -m tests.benchmarks [--out benchmarks] [--only supernet growth] [--quick] [--device cuda]

About two hours on one core; ``--quick`` takes a few minutes and tells whether they run, not how fast anything is. With
``--device cuda`` those that know a device use it; not yet run on a GPU. Exit status 1 if one of them failed.
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
}  # fmt: skip
FILES = {name: f"bench_{name}" for name in QUICK} | {"engine": "engine_overhead"}
ON_DEVICE = ("supernet", "growth")


def main() -> int:
    """Run what the flags say."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks"), help="folder for what they write")
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
    """One benchmark; what it prints goes to the screen and to ``NAME.txt``."""
    words = [sys.executable, "-m", f"tests.benchmarks.{FILES[name]}", *(QUICK[name] if args.quick else [])]
    if name in ON_DEVICE:
        words += ["--device", args.device]
    if name == "growth":
        words += ["--out", str(args.out / "growth")]
    elif name not in ("data", "engine"):
        words += ["--json", str(args.out / f"{name}.json")]
    print(f"\n== {' '.join(words[1:])}", flush=True)
    job = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    with (args.out / f"{name}.txt").open("w") as file:
        for line in job.stdout:
            print(line, end="", flush=True)
            file.write(line)
    return job.wait()


if __name__ == "__main__":
    sys.exit(main())
