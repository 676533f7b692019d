"""Time, memory and size of the report of a large run: many candidates, or many metric records.

    python -m tests.benchmarks.bench_report [--candidates 1000 200000] [--records 1000000] [--json FILE]

The limits for 1,000 candidates or a million records are 5 s, 300 MB and 3 MB of HTML.
"""

from __future__ import annotations

import argparse
import tempfile

import torch

from tests.benchmarks.timing import table, where, write
from tests.helpers.large_runs import repeat_candidates, repeat_metrics, report_cost
from tests.helpers.runs import search, train
from vitas_ds.config import Config
from vitas_ds.recipe import load
from vitas_ds.run.run_dir import RunDir


def main() -> None:
    """Parse the command line and run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--candidates", type=int, nargs="*", default=[1000, 200_000])
    parser.add_argument("--records", type=int, nargs="*", default=[1_000_000])
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in args.candidates:
            run, _ = search(_config(folder, f"candidates{count}"))
            repeat_candidates(run.ledger, count)
            rows.append({"candidates": count, "records": 0} | _cost(run))
        for count in args.records:
            run = train(_config(folder, f"records{count}"), "train-supernet")
            repeat_metrics(run, count)
            rows.append({"candidates": 0, "records": count} | _cost(run))
    print(table(rows))
    if args.json:
        write(args.json, {"arguments": vars(args), "where": where(torch.device("cpu")), "report": rows})


def _config(folder: str, name: str) -> Config:
    settings = [f"run.dir={folder}", f"run.name={name}", "tracking.wandb=disabled"]
    return load("quickstart", settings)


def _cost(run: RunDir) -> dict[str, float]:
    seconds, memory, size = report_cost(run)
    return {"seconds": round(seconds, 1), "MB of memory": round(memory / 1e6), "MB of HTML": round(size / 1e6, 2)}


if __name__ == "__main__":
    main()
