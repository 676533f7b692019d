"""Training in plain torch. Like the engine, torch's AdamW leaves parameters without gradient unchanged.

The hyperparameters are those of the quickstart. A supernet trains for a budget of MACs that counts all sides and
subnets of a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.fidelity import defects, study
from tests.benchmarks.fidelity.drawing import drawn
from tests.benchmarks.fidelity.images import Images
from tests.benchmarks.fidelity.study import SPACE, Size, Variant
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.models.flat import tensor_places
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.training import losses

LR, WARMUP, DECAY, CLIP, SMOOTHING, EMA = 4e-3, 0.05, 0.05, 1.0, 0.1, 0.995


class Learner:
    """AdamW with the schedule of the recipe. ``step(done)`` gets the progress of the training in [0, 1]."""

    def __init__(self, model: nn.Module) -> None:
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.matrices = [
            place for place in tensor_places(model).values() if len(place.shape) > 1 and place.parameter.requires_grad
        ]
        self.adamw = torch.optim.AdamW(self.params, lr=LR, weight_decay=0.0, fused=True)

    def step(self, done: float) -> None:
        """Clip the gradients, update the weights, and reset the gradients."""
        cosine = 0.5 * (1 + math.cos(math.pi * (done - WARMUP) / (1 - WARMUP)))
        lr = LR * (done / WARMUP if done < WARMUP else cosine)
        self.adamw.param_groups[0]["lr"] = lr
        nn.utils.clip_grad_norm_(self.params, CLIP)
        with torch.no_grad():  # AdamW decays whole parameters; a flat one holds matrices and vectors
            torch._foreach_mul_([p.view() for p in self.matrices if p.parameter.grad is not None], 1 - lr * DECAY)
        self.adamw.step()
        self.adamw.zero_grad()


def train_net(spec: SubnetSpec, images: Images, steps: int, seed: int) -> dict[str, float]:
    """Train a subnet alone. Returns its accuracy and loss on val."""
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
        "steps": steps, "accuracy": (logits.argmax(-1) == labels).float().mean().item(),
        "loss": F.cross_entropy(logits, labels).item(), "train_loss": loss.item(),
    }  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """A supernet, its averaged weights, and statistics of its training."""

    supernet: Supernet
    averages: dict[str, Tensor]
    steps: int
    positions: list[int]  # number of steps that trained each position
    loss: float  # of the last step


def train_supernet(variant: Variant, images: Images, size: Size, seed: int) -> Trained:
    """Train a supernet for its budget."""
    supernet = Supernet(SPACE, variant.supernet.sharing, variant.supernet.private_attention, class_token_only=True)
    init_weights(supernet, seed, std=variant.init_std)
    defects.give(supernet, variant.defect)
    learner, averages = Learner(supernet), {k: v.clone() for k, v in supernet.state_dict().items()}
    budget, spent, positions = size.supernet_steps * study.mean_macs() * variant.length, 0.0, np.zeros(SPACE.depth, int)
    for step, nets in enumerate(drawn(variant, seed)):
        x, y = images.batch(step, seed)
        targets = F.one_hot(y, SPACE.num_classes) * (1 - SMOOTHING) + SMOOTHING / SPACE.num_classes
        for net in nets:
            loss = losses.cross_entropy(supernet(x, net), targets, variant.supernet.objective) / len(nets)
            loss.backward()
        learner.step(spent / budget)
        spent += len(supernet.sides) * sum(map(spec_macs, nets))
        positions += np.any([[layer is not None for layer in net.layers] for net in nets], 0)
        for name, value in supernet.state_dict().items():
            averages[name].lerp_(value, 1 - EMA)
        if spent >= budget:
            break
    return Trained(supernet.eval(), averages, step + 1, positions.tolist(), loss.item() * len(nets))
