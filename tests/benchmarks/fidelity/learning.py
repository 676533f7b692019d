"""Training and scoring in plain torch: its AdamW leaves what has no gradient alone, as the engine does.

The recipe is the quickstart's. A supernet trains for a budget of MACs, all sides and nets of a step counted.
"""
# n images, S sides, C classes

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.fidelity import defects, study
from tests.benchmarks.fidelity.images import Images
from tests.benchmarks.fidelity.study import SPACE, Size, Variant
from vitas_ds import genome, rules
from vitas_ds.cost import spec_macs
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.spec import SubnetSpec

LR, WARMUP, DECAY, CLIP, SMOOTHING, EMA = 4e-3, 0.05, 0.05, 1.0, 0.1, 0.995
ADAPT_STEPS, ADAPT_LR, FEW = 10, 1e-3, 200


class Learner:
    """AdamW with the recipe's schedule; ``step(done)`` ends a step, ``done`` in [0, 1] of the training."""

    def __init__(self, model: nn.Module) -> None:
        self.params = [p for p in model.parameters() if p.requires_grad]
        matrices, vectors = [p for p in self.params if p.ndim > 1], [p for p in self.params if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
        self.adamw = torch.optim.AdamW(groups, lr=LR, fused=True)

    def step(self, done: float) -> None:
        """Clip, move, and forget the gradients."""
        cosine = 0.5 * (1 + math.cos(math.pi * (done - WARMUP) / (1 - WARMUP)))
        for group in self.adamw.param_groups:
            group["lr"] = LR * (done / WARMUP if done < WARMUP else cosine)
        nn.utils.clip_grad_norm_(self.params, CLIP)
        self.adamw.step()
        self.adamw.zero_grad()


def train_net(spec: SubnetSpec, images: Images, steps: int, seed: int) -> dict[str, float]:
    """A net trained alone; its accuracy and loss on val."""
    net = VisionTransformer(spec, class_token_only=True)
    init_weights(net, seed, std=None)
    learner = Learner(net)
    for step in range(steps):
        x, y = images.batch(step, seed)
        loss = F.cross_entropy(net(x), y, label_smoothing=SMOOTHING)
        loss.backward()
        learner.step(step / steps)
    with torch.inference_mode():
        logits, labels = net.eval()(images.val[0]), images.val[1]
    return {
        "accuracy": (logits.argmax(-1) == labels).float().mean().item(),
        "loss": F.cross_entropy(logits, labels).item(), "train_loss": loss.item(),
    }  # fmt: skip


def nets_of_step(variant: Variant, seed: int, step: int) -> list[SubnetSpec]:
    """The nets of a step as the product draws them, but for what the variant changes."""
    space = SPACE.model_copy(update={"identity_shift": not variant.anywhere})
    nets = rules.nets_of_step(space, variant.supernet, seed, step, study.identity_prob())
    if variant.fair:
        nets = [_fair(net, seed, step) for net in nets]
    if variant.defect == "widths":
        nets = [defects.misplaced(net, np.random.default_rng([seed, step])) for net in nets]
    return nets


def _fair(net: SubnetSpec, seed: int, step: int) -> SubnetSpec:
    """The same depth; each gene of k choices takes each of them once in k steps, in an order drawn anew each time."""
    genes = genome.encode(SPACE, net)
    for i, size in enumerate(SPACE.gene_sizes):
        operator = i >= 2 and (i - 2) % 3 == 0
        if operator and genes[i] == len(SPACE.num_heads):
            continue
        size = len(SPACE.num_heads) if operator else size
        genes[i] = np.random.default_rng([seed, i, step // size]).permutation(size)[step % size]
    return genome.decode(SPACE, genome.canonical(SPACE, genes[None])[0])


def train_supernet(
    variant: Variant, images: Images, size: Size, seed: int
) -> tuple[Supernet, dict[str, Tensor], int, float]:
    """A supernet trained for its budget; its averaged weights, steps and last loss."""
    supernet = Supernet(SPACE, variant.supernet.sharing, variant.supernet.private_attention, class_token_only=True)
    init_weights(supernet, seed, std=variant.init_std)
    defects.give(supernet, variant.defect)
    learner, averages = Learner(supernet), {k: v.clone() for k, v in supernet.state_dict().items()}
    budget, spent, step = size.supernet_steps * study.mean_macs() * variant.length, 0.0, 0
    while spent < budget:
        x, y = images.batch(step, seed)
        targets = F.one_hot(y, SPACE.num_classes) * (1 - SMOOTHING) + SMOOTHING / SPACE.num_classes
        nets = nets_of_step(variant, seed, step)
        for net in nets:
            loss = rules.loss_of(supernet(x, net), targets, variant.supernet.objective) / len(nets)
            loss.backward()
        learner.step(spent / budget)
        spent += len(supernet.sides) * sum(map(spec_macs, nets))
        step += 1
        for name, value in supernet.state_dict().items():
            averages[name].lerp_(value, 1 - EMA)
    return supernet.eval(), averages, step, loss.item() * len(nets)


def scores(variant: Variant, supernet: Supernet, averages: dict[str, Tensor], images: Images,
           specs: dict[str, SubnetSpec]) -> dict[str, dict[str, float]]:  # fmt: skip
    """What each net is held to be worth, in each way of scoring: way -> net -> score (higher is better)."""
    run = {name: _executed(variant, spec, i) for i, (name, spec) in enumerate(specs.items())}
    found: dict[str, dict[str, float]] = {}
    for name, spec in run.items():
        for way, score in _ways(_logits(supernet, spec, images.search[0]), images.search[1]):
            found.setdefault(way, {})[name] = score
    if variant.extra:
        averaged = copy.deepcopy(supernet)
        averaged.load_state_dict(averages)
        found["averaged weights"] = {name: accuracy(averaged, spec, images) for name, spec in run.items()}
        found["adapted norms"] = {name: _adapted(supernet, spec, images) for name, spec in run.items()}
    return found


def _executed(variant: Variant, spec: SubnetSpec, seed: int) -> SubnetSpec:
    return defects.misplaced(spec, np.random.default_rng([7, seed])) if variant.defect == "widths" else spec


def accuracy(supernet: Supernet, spec: SubnetSpec, images: Images) -> float:
    """The product's score: mean accuracy of the sides on the search images."""
    return next(iter(_ways(_logits(supernet, spec, images.search[0]), images.search[1])))[1]


@torch.inference_mode()
def _logits(supernet: Supernet, spec: SubnetSpec, x: Tensor) -> Tensor:
    return supernet(x, spec)


def _ways(logits: Tensor, labels: Tensor) -> Iterator[tuple[str, float]]:
    """Scores of logits [S, n, C]."""
    right = (logits.argmax(-1) == labels).float()
    yield "accuracy", right.mean().item()
    yield "accuracy of summed logits", (logits.sum(0).argmax(-1) == labels).float().mean().item()
    yield "minus loss", -F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits))).item()
    yield f"accuracy on {FEW} images", right[:, torch.arange(0, len(labels), len(labels) // FEW)].mean().item()


def _adapted(supernet: Supernet, spec: SubnetSpec, images: Images) -> float:
    """The score after some steps of training of the norms alone, on a copy."""
    copied = copy.deepcopy(supernet)
    norms = [p for name, p in copied.named_parameters() if "norm" in name]
    for p in copied.parameters():
        p.requires_grad_(any(p is norm for norm in norms))
    adamw = torch.optim.AdamW(norms, lr=ADAPT_LR, weight_decay=0.0)
    for step in range(ADAPT_STEPS):
        x, y = images.batch(step, seed=99)
        adamw.zero_grad()
        rules.loss_of(copied(x, spec), y, "loss_mean").backward()
        adamw.step()
    return accuracy(copied, spec, images)
