"""Start-up time: ``--help``, and stages on two ranks from the command to the first step.

    python -m tests.benchmarks.bench_start [--ranks 2] [--rounds 3] [--launcher deepspeed] [--json bench_start.json]

The stages run the quickstart recipe on digits, on the CPU. On a busy machine, use the CPU seconds (all processes of
the command, until its end) instead of the wall-clock time. The goals are 0.3 s and 15 s. Nothing may be compiled, which
is checked.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.timing import table, where, write
from tests.helpers import launching
from tests.helpers.digits import write_digits


def main() -> None:
    """Parse the command line and run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="the median is reported")
    parser.add_argument("--launcher", default="deepspeed", choices=["deepspeed", "torchrun"])
    parser.add_argument("--json", default="bench_start.json")
    args = parser.parse_args()
    rows = [time_command(arguments, args.rounds) for arguments in (["--help"], ["--version"], ["config", "quickstart"])]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_digits(root, 24, 2)
        for name in ("train-supernet", "retrain"):
            found = [time_stage(root, f"{name}{i}", name, args.launcher, args.ranks) for i in range(args.rounds)]
            rows.append(sorted(found, key=lambda row: row["seconds"])[len(found) // 2])
    print(table(rows))
    write(args.json, {"arguments": vars(args), "where": where(torch.device("cpu")), "start": rows})


def time_command(arguments: list[str], rounds: int) -> dict[str, Any]:
    """Time a command that starts no stage."""
    times = []
    for _ in range(rounds + 1):  # the first one warms the disk cache
        before, begin = children_cpu(), time.perf_counter()
        subprocess.run([sys.executable, "-m", "vitas_ds", *arguments], check=True, capture_output=True)
        times.append((time.perf_counter() - begin, children_cpu() - before))
    seconds, cpu = sorted(times[1:])[rounds // 2]
    return {"what": " ".join(arguments), "seconds": seconds, "CPU seconds": cpu, "compiled files": 0}


def time_stage(root: Path, run: str, name: str, launcher: str, ranks: int) -> dict[str, Any]:
    """Time a stage with one step: seconds from its command to the record of that step, and CPU time until its end."""
    overrides = [
        "quickstart", f"data.train={root}/train", f"data.val={root}/val", f"run.dir={root}", f"run.name={run}",
        "run.device=cpu", "data.search_per_class=4", "tracking.wandb=disabled", "retrain.spec=" + str(_spec(root)),
    ]  # fmt: skip
    one = ("epochs=1", "batch_size=200", "log_every=1", "warmup_epochs=0")  # one epoch of one step
    overrides += [f"{part}.{key}" for part in ("supernet", "retrain") for key in one]
    built = root / f"{run}-extensions"
    command = launching.stage_command(name, overrides, launcher, ranks)
    before, begin = children_cpu(), time.perf_counter()
    job = launching.start_process(command, launching.environment(TORCH_EXTENSIONS_DIR=str(built)))
    metrics, first = root / run / "metrics.jsonl", None
    while job.poll() is None and first is None:
        first = time.perf_counter() if metrics.exists() and '"loss"' in metrics.read_text() else None
        time.sleep(0.02)
    launching.wait_for_process(job, command, 600)
    seconds = (first or time.perf_counter()) - begin
    files = sum(len(names) for _, _, names in os.walk(built))
    return {"what": f"{name}, {ranks} ranks", "seconds": seconds, "CPU seconds": children_cpu() - before,
            "compiled files": files}  # fmt: skip


def _spec(root: Path) -> Path:
    path = root / "spec.json"
    layer = '{"num_heads": 2, "qkv_dim": 96, "mlp_dim": 96}'
    path.write_text('{"image_size": 28, "patch_size": 7, "embed_dim": 48, "num_classes": 10, '
                    f'"layers": [{", ".join([layer] * 3)}]}}')  # fmt: skip
    return path


def children_cpu() -> float:
    """Return the CPU seconds of all finished child processes and their children."""
    use = resource.getrusage(resource.RUSAGE_CHILDREN)
    return use.ru_utime + use.ru_stime


if __name__ == "__main__":
    main()
