"""Print the tables of docs/scale.md: estimates for 8, 64 and 512 GPUs, from counts and stated rates.

    python -m tests.benchmarks.scale [--write] [--json FILE]

``--write`` updates the page.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from tests.benchmarks import scale_model as model
from tests.benchmarks.scale_simulation import Cluster, simulate
from tests.benchmarks.timing import where, write
from tests.helpers.paths import ROOT

PAGE = ROOT / "docs" / "scale.md"
CANDIDATES, SEARCH_IMAGES, BATCH = 50, 10_000, 256
SEEDS = 100


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table."""
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def steps() -> str:
    """Return the parts of a step: the recipe's global batch, then 128 images per GPU."""
    rows = []
    for gpus in model.GPUS:
        for per_gpu in dict.fromkeys((1024 // gpus, 128)):
            parts = model.step(gpus, per_gpu, stage=1)
            computing = "links" if parts["links"] > max(parts["host"], parts["GPU"]) else "host or GPU"
            bound = next((name for name in ("decode", "storage") if parts[name] == parts["step"]), computing)
            shrunk = model.step(gpus, per_gpu, stage=1, shrunk=True)["step"]
            times = [f"{1e3 * parts[name]:.1f}" for name in ("host", "GPU", "links", "decode", "storage", "step")]
            rows.append([gpus, gpus * per_gpu, per_gpu, *times, f"{1e3 * shrunk:.1f}", bound])
    heads = [
        "GPUs",
        "batch",
        "per GPU",
        "host",
        "GPU",
        "links",
        "decode",
        "storage",
        "step",
        "step, shrunk",
        "bound by",
    ]
    return table(heads, rows)


def epochs() -> str:
    """Return the minutes of an epoch."""
    rows = []
    for gpus in model.GPUS:
        for per_gpu in dict.fromkeys((1024 // gpus, 128)):
            seconds = [model.step(gpus, per_gpu, 1, shrunk)["step"] for shrunk in (False, True)]
            minutes = [images // (gpus * per_gpu) * s / 60 for images in model.IMAGES for s in seconds]
            rows.append([gpus, gpus * per_gpu, *(f"{m:.2f}" for m in minutes)])
    return table(["GPUs", "batch", "1.3M", "1.3M, shrunk", "14M", "14M, shrunk"], rows)


def stages() -> str:
    """Return a table of the bytes exchanged by each ZeRO stage, and of their duration."""
    found, rows = model.counts(), []
    for stage in range(4):
        sizes = model.collectives(stage, found.parameters, found.used, found.gathered, found.small)
        times = [sum(model.collective_seconds(n, s, g) for n, s in sizes.items()) for g in model.GPUS]
        total = sum(sizes.values()) / 1e6
        rows.append([stage, f"{total:.0f}", *(f"{1e3 * t:.1f}" for t in times)])
    return table(["ZeRO stage", "MB per step", *(f"ms, {g} GPUs" for g in model.GPUS)], rows)


def starts() -> str:
    """Return the seconds of a start."""
    rows = [[f"{n / 1e6:g}M", *(f"{model.start(n, indexed):.0f}" for indexed in (False, True))] for n in model.IMAGES]
    return table(["images", "s, listed by each rank", "s, with an index"], rows)


def checkpoints() -> str:
    """Return size and time of a checkpoint."""
    rows = []
    for gpus in model.GPUS:
        for stage in (0, 1):
            found = model.checkpoint(gpus, stage)
            rows.append([gpus, stage, gpus if stage else 1, f"{found['file'] / 1e6:.1f}",
                         f"{1e3 * found['loop']:.1f}", f"{found['background']:.2f}"])  # fmt: skip
    return table(["GPUs", "ZeRO stage", "files", "MB per file", "ms in the loop", "s in the background"], rows)


def generations() -> str:
    """Return the seconds of a scored generation."""
    rows = []
    for gpus in model.GPUS:
        best = model.group_of(gpus, CANDIDATES, -(-SEARCH_IMAGES // BATCH))
        for group in dict.fromkeys((1, best, model.PER_NODE)):
            rounds = -(-CANDIDATES // (gpus // group))
            exchanged = model.score_bytes(CANDIDATES, SEARCH_IMAGES, gpus, group) / 1e6
            seconds = model.generation(gpus, group, CANDIDATES, SEARCH_IMAGES, BATCH)
            rows.append([gpus, group, rounds, f"{exchanged:.1f}", f"{seconds:.3f}"])
    return table(["GPUs", "ranks_per_candidate", "rounds", "MB exchanged", "s"], rows)


def stragglers() -> str:
    """Return what stragglers and lost ranks cost on 512 ranks, for 5,120 candidates of 1 s."""
    rows = []
    cases: dict[str, dict[str, float]] = {
        "equal candidates, 3 % jitter": {},
        "0.1 % of the ranks take 1.5 times as long": {"slow": 0.001},
        "1 % of the ranks take 1.5 times as long": {"slow": 0.01},
        "a rank lost every 99 hours": {"lost": model.rate("failures") / 3600},
        "a rank lost every minute": {"lost": 1 / 60 / 512},
    }
    for name, values in cases.items():
        for group in (1, 8):
            found = [simulate(Cluster(512, group, **values), np.ones(5120), seed) for seed in range(SEEDS)]
            ratio = float(np.mean([one.seconds / one.ideal for one in found]))
            again = float(np.mean([one.wasted for one in found]))
            rows.append([name, group, f"{ratio:.2f}", f"{np.mean([one.starts for one in found]):.2f}", f"{again:.0f}"])
    heads = ["ranks", "ranks_per_candidate", "time, ideal = 1", "starts", "candidates scored again"]
    return table(heads, rows)


def inputs() -> str:
    """Return the rates and their sources."""
    rows = [[name, f"{value:.3g}", unit, source] for name, (value, unit, source) in model.RATES.items()]
    return table(["input", "value", "unit", "source"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "step": steps, "epoch": epochs, "ZeRO": stages, "start": starts, "checkpoint": checkpoints,
    "generation": generations, "stragglers": stragglers, "inputs": inputs,
}  # fmt: skip


def insert(page: str, name: str, text: str) -> str:
    """Return the page with the table ``name`` replaced."""
    pattern = rf"(<!-- table: {name} -->\n).*?(\n<!-- end -->)"
    return re.sub(pattern, lambda match: match[1] + text + match[2], page, flags=re.DOTALL)


def rows_of(text: str) -> list[dict[str, str]]:
    """Return the rows of a Markdown table by column."""
    heads, _, *rows = ([cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines())
    return [dict(zip(heads, row, strict=True)) for row in rows]


def main() -> int:
    """Print the tables, or write them to the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="update docs/scale.md")
    parser.add_argument("--json", metavar="FILE", help="write the tables as rows")
    args = parser.parse_args()
    page = PAGE.read_text()
    found: dict[str, Any] = {"where": where(torch.device("cpu"))}
    for name, function in TABLES.items():
        text = function()
        found[name] = rows_of(text)
        print(f"\n{name} (estimates)\n{text}")
        page = insert(page, name, text)
    if args.write:
        PAGE.write_text(page)
    write(args.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
