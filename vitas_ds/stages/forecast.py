"""Estimates before and during a stage: memory and disk space of a search, and computation of later stages.

A MAC of the forward pass counts once, of a training step three times. Different networks take different times per MAC,
so the remaining time of a run is rough.
"""

from __future__ import annotations

import math

from vitas_ds.arch import cost, genome
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.published import find_spec
from vitas_ds.arch.space import WidthTable
from vitas_ds.config import Config
from vitas_ds.distributed.comm import Ranks
from vitas_ds.engine.memory import FP32
from vitas_ds.models.channels import SIDES
from vitas_ds.run.overview import format_size
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.summary import read_summary
from vitas_ds.search.trials.plan import PASSES
from vitas_ds.search.workload import count_candidates, workload
from vitas_ds.training.task import Task, count_steps

DRAWN = 16  # steps whose subnets give the mean cost of a step
LINE, LAYER_TEXT = 600, 80  # bytes of a line of the ledger, and of each layer in it


def print_search_estimate(config: Config, ranks: Ranks, params: int, images: int) -> None:
    """Print candidates, disk space and memory of a search on rank 0, computed for the largest subnet of the space."""
    if not ranks.is_main:
        return
    candidates, space = count_candidates(config), config.space
    largest = genome.decode(space, genome.largest(space))
    layers = cost.layer_activations(WidthTable.from_specs([largest]))[0]
    pixels = images * 3 * space.image_size**2
    batch = min(config.data.eval_batch_size, images)
    memory = FP32 * params + (0 if config.data.cache == "file" else pixels) + batch * float(layers.max())
    disk = candidates * (LINE + LAYER_TEXT * largest.depth) + (pixels if config.data.cache == "file" else 0)
    scored = config.search.images or images
    print(
        f"search: estimate: {candidates:,} candidates on {scored:,} images, {format_size(disk)} on disk, "
        f"{format_size(memory)} of memory per rank without libraries", flush=True,
    )  # fmt: skip


def after_supernet(task: Task, run: RunDir) -> float:
    """Return the computation of search and retrain relative to that of the supernet. Finished stages count 0."""
    config, (_, steps) = task.config, count_steps(task)
    drawn = [spec for step in range(0, steps, -(-steps // DRAWN)) for spec in task.subnets(step)]
    mean = sum(map(spec_macs, drawn)) / len(drawn)
    images = steps * task.training.batch_size * len(task.subnets(0)) * len(SIDES[config.supernet.sharing])
    later = 0.0 if run.best.exists() else _search_macs(config, mean)
    teacher = steps * task.training.batch_size * task.teacher_macs
    return (later + _retrain_macs(config, run, mean, len(task.images))) / (PASSES * mean * images + teacher)


def after_search(config: Config, run: RunDir) -> float:
    """Return the computation of retrain relative to that of the search; nan if the number of images is unknown."""
    steps = read_summary(run).get("train-supernet", {}).get("steps")
    if steps is None or config.search.macs is None:
        return math.nan
    images = steps * config.supernet.batch_size // config.supernet.epochs
    return _retrain_macs(config, run, 0, images) / _search_macs(config, 0)


def _mean_macs(config: Config, otherwise: float) -> float:
    """Return the MACs in the middle of the budget."""
    return sum(config.search.macs) / 2 if config.search.macs else otherwise


def _search_macs(config: Config, mean: float) -> float:
    """Return the computation of a search; ``mean`` are the MACs of its candidates without a budget of MACs."""
    return workload(config, _mean_macs(config, mean)).total


def _retrain_macs(config: Config, run: RunDir, mean: float, images: int) -> float:
    """Return the computation of retrain; ``images`` are those of the supernet, without the search images."""
    if run.retrain_weights.exists():
        return 0.0
    spec, all_images = config.retrain.spec, images + config.data.search_per_class * config.space.num_classes
    known = spec != "init" and "search:" not in spec
    macs = spec_macs(find_spec(spec)) if known else _mean_macs(config, mean)
    return PASSES * macs * all_images * config.retrain.epochs
