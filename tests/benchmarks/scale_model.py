"""Estimate the cost of a step, a start, a checkpoint and a scored generation on many GPUs. No GPU is needed.

Counts come from this code: operator calls and memory traffic (results/launches.json), parameters, bytes per collective.
``scale_ranks.py`` checks the bytes with 1, 2 and 4 ranks. Rates are stated inputs, and all results are estimates.
"""
# G GPUs, N images

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from vitas_ds.arch import cost, genome
from vitas_ds.models.supernet import Supernet
from vitas_ds.recipe import load

LAUNCHES = Path(__file__).parent / "results" / "launches.json"
RECIPE = "vitas_1g_bcnet"
GPUS, IMAGES = (8, 64, 512), (1_300_000, 14_000_000)
PER_NODE = 8
MACS = 0.92e9  # of a subnet: the middle of the recipe's supernet.macs
FP32 = 4  # bytes
PERSISTENT = 100_000  # parameters: stage3_param_persistence_threshold of ds_configs/zero3.json
ROW_BATCH = 128  # batch size of the counts in launches.json

# name: (rate, unit, source)
RATES: dict[str, tuple[float, str, str]] = {
    "host": (15.6e-6, "s per call", "measured on an H200, docs/benchmarks.md"),
    "flops": (0.45 * 989.4e12, "FLOP/s", "45 % of the H100 data sheet's bf16 peak; the share is an assumption"),
    "memory": (3.0e12, "B/s", "90 % of the H100 SXM data sheet's 3.35 TB/s; assumption"),
    "nvlink": (300e9, "B/s per GPU", "two thirds of 450 GB/s per direction (H100 data sheet); assumption"),
    "network": (40e9, "B/s per GPU", "80 % of one 400 Gb/s port per GPU (DGX H100 data sheet); assumption"),
    "latency": (15e-6, "s per hop", "assumption; a collective has 2 log2(G) hops"),
    "decode": (7_722, "images/s per GPU", "measured, weak recipe, H200 with 16 cores, docs/benchmarks.md"),
    "image": (110e3, "B", "ILSVRC 2012: 138 GB for 1.28M training images"),
    "small": (25e3, "B", "short side 256, quality 90; assumption"),
    "read": (20e9, "B/s", "shared storage, all nodes together; assumption"),
    "write": (5e9, "B/s", "shared storage, all nodes together; assumption"),
    "stream": (1e9, "B/s per rank", "one writer, with SHA-256; assumption"),
    "pcie": (25e9, "B/s", "PCIe 5.0 x16 at 40 % of its 63 GB/s; assumption"),
    "launch": (11.6, "s", "launcher, imports, engine: measured, 2 CPU ranks, docs/benchmarks.md"),
    "listing": (50_000, "names/s per rank", "shared storage; assumption"),
    "index": (3.3 / 14e6, "s per image", "CPU time of this code, from reading the index to the first batch"),
    "failures": (1 / 50_700, "per GPU hour", "419 failures in 54 days on 16,384 GPUs, arXiv 2407.21783"),
}


def rate(name: str) -> float:
    """Return a rate."""
    return RATES[name][0]


@dataclass(frozen=True)
class Counts:
    """Counts of the recipe's network: means over its patch sizes, or over random subnets of about ``MACS``."""

    parameters: int
    used: int
    gathered: int
    small: int
    macs: float
    calls: float
    scoring_calls: float
    traffic: float


@cache
def counts() -> Counts:
    """Return the counts of the recipe."""
    recipe = load(RECIPE, [])
    with torch.device("meta"):
        net = Supernet(recipe.space, recipe.supernet.sharing, recipe.supernet.private_attention)
    units = {unit: sum(p.numel() for p in params) for unit, params in net.units().items()}
    drawn = genome.decode_all(recipe.space, genome.sample(recipe.space, np.random.default_rng(0), 2000))
    specs = [spec for spec in drawn if abs(cost.spec_macs(spec) - MACS) < 0.05e9]
    used, gathered = (
        float(np.mean([sum(units[unit] for unit in select(units, net.units_used(spec))) for spec in specs]))
        for select in (lambda _, names: names, modules_used)
    )
    small = sum(size for size in units.values() if size <= PERSISTENT)
    macs = float(np.mean([cost.spec_macs(spec) for spec in specs]))
    rows = [row for row in json.loads(LAUNCHES.read_text())["rows"] if row["rule"] == recipe.supernet.sharing]

    def mean(*names: str) -> float:
        return float(np.mean([sum(row[name] for name in names) for row in rows]))

    return Counts(
        sum(units.values()), round(used), round(gathered), small, macs,
        mean("forward_backward", "step_zero1"), mean("scoring"), mean("gigabytes") * 1e9 / ROW_BATCH,
    )  # fmt: skip


def modules_used(units: Iterable[str], used: Collection[str]) -> list[str]:
    """Return the units that ZeRO 3 gathers: a layer is gathered with its private attention of all head counts."""
    modules = {unit.partition(".")[0] for unit in used}
    return [unit for unit in units if unit.partition(".")[0] in modules]


def collectives(stage: int, parameters: int, used: int, gathered: int = 0, small: int = 0) -> dict[str, int]:
    """Return the bytes of a step's collectives.

    Args:
        stage: ZeRO stage.
        parameters: Parameters of the supernet.
        used: Parameters of the units in the step.
        gathered: Parameters that ZeRO 3 gathers in the forward pass and again in the backward pass (``modules_used``).
            This is an upper bound: some layers of the step before are not gathered a second time.
        small: Parameters below ``stage3_param_persistence_threshold``, which ZeRO 3 gathers after each step.
    """
    reduced, everything = FP32 * used, FP32 * parameters
    return {
        0: {"allreduce": reduced},
        1: {"allreduce": reduced, "allgather_base": everything},
        2: {"allreduce": reduced + FP32, "allgather_base": everything},  # and the norm
        3: {"reduce_scatter_base": reduced, "allreduce": FP32, "allgather_base": FP32 * (2 * gathered + small)},
    }[stage]


def collective_seconds(name: str, size: float, gpus: int) -> float:
    """Return the time of a ring collective."""
    passes = {"allreduce": 2}.get(name, 1)
    link = rate("nvlink") if gpus <= PER_NODE else rate("network")
    return passes * size * (gpus - 1) / gpus / link + 2 * rate("latency") * math.log2(gpus)


def step(gpus: int, per_gpu: int, stage: int, shrunk: bool = False) -> dict[str, float]:
    """Return the seconds of a step's parts, and of the step. Loading overlaps with it; the reduction does not."""
    found = counts()
    sizes = collectives(stage, found.parameters, found.used, found.gathered, found.small)
    parts = {
        "host": found.calls * rate("host"),
        "GPU": per_gpu * max(6 * 2 * found.macs / rate("flops"), found.traffic / rate("memory")),
        "links": sum(collective_seconds(name, size, gpus) for name, size in sizes.items()),
        "decode": per_gpu / rate("decode"),
        "storage": gpus * per_gpu * rate("small" if shrunk else "image") / rate("read"),
    }
    return parts | {"step": max(max(parts["host"], parts["GPU"]) + parts["links"], parts["decode"], parts["storage"])}


def start(images: int, indexed: bool) -> float:
    """Return the seconds from the command to the first batch."""
    return rate("launch") + images * (rate("index") if indexed else 1 / rate("listing"))


def checkpoint(gpus: int, stage: int) -> dict[str, float]:
    """Return the bytes of the largest file of a checkpoint, and the seconds in and next to the training loop."""
    total = 3 * FP32 * counts().parameters  # weights and two moments
    writers = 1 if stage == 0 else gpus
    size = total / writers
    return {"file": size, "loop": size / rate("pcie"), "background": max(size / rate("stream"), total / rate("write"))}


def group_of(gpus: int, candidates: int, batches: int) -> int:
    """Return the largest power of two for ``search.ranks_per_candidate`` that adds no round and idles no rank."""
    group = 1
    while group * 2 * candidates <= gpus and group * 2 <= batches:
        group *= 2
    return group


def score_images(candidates: int, images: int, batch: int, ranks: int, group: int) -> int:
    """Return the images scored by the busiest rank in a generation."""
    rounds = -(-candidates // (ranks // group))
    return rounds * sum(min(batch, images - first) for first in range(0, images, group * batch))


def score_bytes(candidates: int, images: int, ranks: int, group: int) -> int:
    """Return the bytes of the all-reduces of a generation: one int64 per image and group, per round."""
    groups = ranks // group
    return -(-candidates // groups) * (groups + 1) * (images + 1) * 8


def generation(gpus: int, group: int, candidates: int = 50, images: int = 10_000, batch: int = 256) -> float:
    """Return the seconds of a scored generation, with the search images on the GPUs."""
    found = counts()
    own = score_images(candidates, images, batch, gpus, group)
    compute = max(2 * 2 * found.macs / rate("flops"), found.traffic / 3 / rate("memory"))  # a third of a step's traffic
    rounds = -(-candidates // (gpus // group))
    exchanged = score_bytes(candidates, images, gpus, group)
    link = rate("nvlink") if gpus <= PER_NODE else rate("network")
    waits = rounds * 2 * rate("latency") * math.log2(gpus) + 2 * exchanged / link
    return max(own * compute, own / batch * found.scoring_calls * rate("host")) + waits
