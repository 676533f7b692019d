"""Train and score the supernet variants of the study.

All variants train for the same MACs, counting every side, subnet and teacher pass; only ``length`` changes that. They
start from the recipe, and each changes one thing.
"""
# n nets, S sides, B batch, C classes

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.fidelity.images import Images
from tests.benchmarks.fidelity.study import Study
from tests.benchmarks.fidelity.training import Saved
from vitas_ds import config
from vitas_ds.arch import genome
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.engine.precision import autocast
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.search.feasible.table import feasible_set
from vitas_ds.training import losses, sampling
from vitas_ds.training.plain import PlainTrainer

NETS = 5  # a supernet trains for the MACs of this many subnets trained alone
MARKS = (0.5, 0.75, 0.9, 1.0)  # shares of the training after which the subnets are scored
DRAWN = 1000  # steps whose mean MACs set the number of steps
EMA = 0.999
SCORED = 500  # images a batch


@dataclass(frozen=True)
class Variant:
    """A way to train a supernet.

    Attributes:
        name: Name in the record.
        supernet: Fields of the section ``supernet`` that differ from the recipe.
        space: Fields of the section ``space`` that differ from the recipe.
        subnets: Subnets of a step, all on the same batch.
        split: A field of the section ``space``. Train one supernet for each of its choices, each with an equal share of
            the MACs.
        length: MACs relative to the other variants.
        sandwich: Train the largest subnet, ``subnets`` random ones and the smallest on each batch; the smaller ones
            learn the outputs of the largest (arXiv 1903.05134).
        largest_first: Share of the MACs that trains the largest subnet alone, before all others.
    """

    name: str
    supernet: dict[str, Any] = field(default_factory=dict)
    space: dict[str, Any] = field(default_factory=dict)
    subnets: int = 1
    split: str = ""
    length: float = 1.0
    sandwich: bool = False
    largest_first: float = 0.0


BAND = {"distribution": "budget"}
ORDINAL = BAND | {"sharing": "ordinal"}
FIRST = {"identity_shift": True}  # a network of L layers has them at the first L positions
SMALL_BATCHES = {"batch_size": 32, "lr": 1e-3}
UNIFORM = Variant("default", {"distribution": "uniform"})  # of the product: uniform genes, fitted identities
NESTED = Variant("nested", ORDINAL, FIRST)


def _nested(change: str, supernet: dict[str, Any] | None = None, **fields: Any) -> Variant:
    return replace(NESTED, name=f"{NESTED.name}, {change}", supernet=NESTED.supernet | (supernet or {}), **fields)


VARIANTS = {
    v.name: v
    for v in (
        UNIFORM,
        Variant("budget", BAND),
        NESTED,
        _nested("small batches", SMALL_BATCHES),
        _nested("nothing private", {"private_attention": 0}),
        _nested("one per patch size", split="patch_sizes"),
        _nested("small batches, nothing private", SMALL_BATCHES | {"private_attention": 0}),
        _nested("small batches, nothing private, one per patch size", SMALL_BATCHES | {"private_attention": 0},
                split="patch_sizes"),
        _nested("one per embed_dim", split="embed_ratios"),
        _nested("private norms", {"private_norms": True}),
        _nested("sandwich", subnets=2, sandwich=True),
        _nested("sandwich, largest first", subnets=2, sandwich=True, largest_first=0.3),
        _nested("four subnets", subnets=4),
        Variant("first positions", BAND, FIRST),
        Variant("ordinal", ORDINAL),
        Variant("mean of losses", BAND | {"objective": "loss_mean"}),
        _nested("no weight decay", {"weight_decay": 0.0}),
        _nested("lr 1e-3", {"lr": 1e-3}),
        _nested("lr 4e-3", {"lr": 4e-3}),
        Variant("cyclic", BAND | {"sharing": "cyclic"}),
        _nested("a quarter as long", length=0.25),
        _nested("half as long", length=0.5),
        _nested("three times as long", length=3.0),
        _nested("ten times as long", length=10.0),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """A supernet to train: its space and settings, the subnets of each step, and the number of steps."""

    space: SearchSpace
    settings: config.Supernet
    subnets: Callable[[int], list[SubnetSpec]]
    steps: int
    macs: float  # of the whole training, forward passes of single images
    distill: bool = False  # all subnets of a step but the first learn the outputs of the first


def plans(study: Study, variant: Variant, seed: int) -> list[Plan]:
    """Return the supernets of a variant."""
    base = study.config
    space = base.space.model_copy(update=variant.space)
    settings = base.supernet.model_copy(update={"ema_decay": EMA} | variant.supernet)
    whole = variant.length * NETS * study.net_steps * base.retrain.batch_size * float(np.mean(study.budget))
    choices = getattr(space, variant.split) if variant.split else ()
    spaces = [space.model_copy(update={variant.split: (choice,)}) for choice in choices] or [space]
    return [_plan(study, variant, part, settings, whole / len(spaces), seed) for part in spaces]


def _plan(
    study: Study, variant: Variant, space: SearchSpace, settings: config.Supernet, macs: float, seed: int
) -> Plan:
    low, high = study.budget
    in_budget = settings.distribution == "budget"
    within = feasible_set(space, {"macs": (int(low), int(high))}) if in_budget else None
    prob = None if in_budget else sampling.fit_identity_prob(space, low, high)

    def random(step: int) -> list[SubnetSpec]:
        return [sampling.draw(space, seed, step, prob, index, within) for index in range(variant.subnets)]

    largest, smallest = (genome.decode(space, of(space)) for of in (genome.largest, genome.smallest))
    ends = ([largest], [smallest]) if variant.sandwich else ([], [])
    images = settings.batch_size * (2 if settings.sharing == "bilateral" else 1)
    of_step = images * np.mean([sum(map(spec_macs, (*ends[0], *random(s), *ends[1]))) for s in range(DRAWN)])
    first = round(variant.largest_first * macs / (images * spec_macs(largest)))
    steps = max(2, round((1 - variant.largest_first) * macs / of_step))

    def subnets(step: int) -> list[SubnetSpec]:
        return [largest] if step < first else [*ends[0], *random(step), *ends[1]]

    total = float(steps * of_step + first * images * spec_macs(largest))
    return Plan(space, settings, subnets, first + steps, total, distill=variant.sandwich)


def train(study: Study, variant: Variant, images: Images, seed: int, saved: Path, weights: Path) -> dict[str, Any]:
    """Train the supernets of a variant, keep their weights, and score the subnets. Returns the row of the record."""
    row: dict[str, Any] = {"steps": [], "training_macs": 0.0, "training_seconds": 0.0, "scores": {}}
    scoring = 0.0  # in this process
    for i, plan in enumerate(plans(study, variant, seed)):
        trainer = make_trainer(plan, study, seed)
        progress = Saved(saved.with_stem(f"{saved.stem} {i}"), trainer)
        for share in MARKS:
            progress.run(images, seed, round(share * plan.steps))
            if str(share) not in progress.results:
                clock = time.thread_time()
                progress.results[str(share)] = _scored(trainer, plan, study, images, share)
                scoring += time.thread_time() - clock
                progress.save()
        row["training_seconds"] += progress.seconds
        row["steps"].append(plan.steps)
        row["training_macs"] += plan.macs
        row["train_loss"] = trainer.loss.item()
        for ways in progress.results.values():
            for way, scores in ways.items():
                row["scores"].setdefault(way, {}).update(scores)
        weights.parent.mkdir(parents=True, exist_ok=True)
        torch.save(trainer.model.state_dict(), weights.with_stem(f"{weights.stem} {i}"))
    for path in saved.parent.glob(f"{saved.stem} *.pt"):  # not earlier: a killed job would repeat its first supernet
        path.unlink()
    return row | {"scoring_seconds": round(scoring, 1)}


def make_trainer(plan: Plan, study: Study, seed: int) -> PlainTrainer:
    supernet = new(plan)
    init_weights(supernet, seed, plan.settings.init_std)

    def step_losses(x: Tensor, targets: Tensor, step: int) -> Iterator[Tensor]:
        specs, objective = plan.subnets(step), plan.settings.objective
        teacher = None
        for spec in specs:
            logits = supernet(x, spec)
            if teacher is None or not plan.distill:
                loss = losses.cross_entropy(logits, targets, objective)
            else:
                loss = losses.distill_loss(logits, teacher, objective)
            teacher = logits.detach() if teacher is None else teacher
            yield loss / len(specs)

    precision = study.config.engine.precision
    return PlainTrainer(supernet, plan.settings, plan.steps, step_losses, plan.space.num_classes, seed, precision)


def _scored(
    trainer: PlainTrainer, plan: Plan, study: Study, images: Images, share: float
) -> dict[str, dict[str, float]]:
    """Return the scores of the subnets of the plan: way -> subnet -> score. Before the end, of equal cost only."""
    nets = {
        name: net for name, net in study.nets.items()
        if net.patch_size in plan.space.patch_sizes and net.embed_dim in plan.space.embed_widths
    }  # fmt: skip
    if share < 1:
        nets = {name: net for name, net in nets.items() if name.startswith("equal")}
    supernets = {"": trainer.model}
    if share == 1:
        supernets[", averaged weights"] = new(plan)
        supernets[", averaged weights"].load_state_dict(trainer.averages)
    found: dict[str, dict[str, float]] = {}
    for weights, supernet in supernets.items():
        for name, net in nets.items():
            logits = search_logits(supernet, net, images, study.config.engine.precision)
            for way, score in _ways(logits, images.search[1]):
                found.setdefault(f"{way}{weights}{f', at {share:.0%}' * (share < 1)}", {})[name] = score
    return found


@torch.inference_mode()
def search_logits(supernet: nn.Module, net: SubnetSpec, images: Images, precision: str) -> Tensor:
    """Return the logits [S, n, C] of the search images."""
    supernet.eval()
    with autocast(precision, torch.device("cpu")):
        parts = [supernet(images.normalized(part), net).float() for part in images.search[0].split(SCORED)]
    return torch.cat(parts, 1)


def _ways(logits: Tensor, labels: Tensor) -> Iterator[tuple[str, float]]:
    """Yield (way, score) of logits [S, n, C]; higher is better. The first one is the score of the product."""
    summed = logits.sum(0)
    yield "accuracy", (logits.argmax(-1) == labels).double().mean().item()
    yield "minus loss", -F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits))).item()
    if len(logits) > 1:
        yield "accuracy of summed logits", (summed.argmax(-1) == labels).double().mean().item()
        yield "minus loss of mean logits", -F.cross_entropy(logits.mean(0), labels).item()


def new(plan: Plan) -> Supernet:
    """Return a supernet of the plan with undefined weights."""
    settings = plan.settings
    return Supernet(
        plan.space, settings.sharing, settings.private_attention, class_token_only=True,
        private_norms=settings.private_norms,
    )  # fmt: skip
