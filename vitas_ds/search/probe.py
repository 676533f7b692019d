"""Accuracy of a few fixed subnets while a supernet is trained: the smallest, the largest and some random ones.

The scores are those of the search: same images, same rule for the sides, averaged weights if there are any. All ranks
compute the same subnet at the same time, each on its share of the images, because ZeRO 3 gathers the weights for each
forward pass. Training is not affected: nothing here draws random numbers or leaves gradients.
"""
# n images, B batch, S sides, C classes

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vitas_ds.arch import genome
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.config import Config
from vitas_ds.data.sources import ImageSet
from vitas_ds.distributed import watchdog
from vitas_ds.distributed.comm import Ranks
from vitas_ds.engine.engine import Engine
from vitas_ds.models import net
from vitas_ds.search.curve import PREFIX
from vitas_ds.search.feasible.several import feasible_sets
from vitas_ds.search.scoring.candidate import score_from_counts
from vitas_ds.search.scoring.scorer import balanced_order, correct
from vitas_ds.search.trials.spread import spread_subnets
from vitas_ds.training.accuracy import BACKWARD, Schedule, Share, decode_share, evaluating, schedule, sum_counts
from vitas_ds.training.task import Evaluation, Task, count_steps

RANDOM = 4  # random subnets within the budget; of several budgets, as many or a few more in all


def probed_subnets(config: Config) -> dict[str, SubnetSpec]:
    """Return the subnets by name. The random ones are within the counted budget; they do not depend on a latency."""
    space = config.space
    ends = {"smallest": genome.smallest(space), "largest": genome.largest(space)}
    within = feasible_sets(space, config.search)
    inside = [spec for one in within for spec in spread_subnets(one, -(-RANDOM // len(within)), config.run.seed)]
    named = {name: genome.decode(space, row).canonical() for name, row in ends.items()}
    return named | {f"random{i}": spec for i, spec in enumerate(inside, 1)}


@dataclass(frozen=True)
class Probe:
    """Scores the subnets with the weights of an engine. All ranks call it together.

    Attributes:
        subnets: The subnets by name.
        config: Configuration of the run.
        share: Images of this rank.
    """

    subnets: dict[str, SubnetSpec]
    config: Config
    share: Share

    def __call__(self, engine: Engine) -> dict[str, float]:
        """Return the accuracy of each subnet and the largest standard error, named as metrics.

        Raises:
            Preempted: On all ranks: one of them has a stop request.
        """
        values, errors = {}, []
        with engine.averaged(), evaluating(engine.model, "block_function", net.block), torch.no_grad():
            for i, (name, spec) in enumerate(self.subnets.items()):
                watchdog.at(f"evaluating subnet {i + 1} of {len(self.subnets)}")
                points, squares, most = sum_counts(self._count(engine, spec))
                score = score_from_counts(points, squares, self.share.total, most)
                values[PREFIX + name] = score.value
                errors.append(score.stderr or 0.0)
        return values | {PREFIX + "stderr": max(errors)}

    def _count(self, engine: Engine, spec: SubnetSpec) -> Tensor:
        """Return the sums of points and of squared points on this rank, and the largest sum."""
        counts = torch.zeros(3, dtype=torch.int64, device=self.share.device)
        for images, labels, own in self.share.batches():
            points_SB = correct(engine(images, spec), labels, self.config.search.side_rule)[:, :own]
            points = points_SB.sum(0)
            counts += torch.stack([points.sum(), (points**2).sum(), counts.new_tensor(points_SB.numel())])
        return counts

    def describe(self, values: dict[str, float]) -> str:
        """Format the result for the console."""
        parts = [f"{name} {values[PREFIX + name]:.1%}" for name in self.subnets]
        return f"accuracy of subnets: {', '.join(parts)} (standard error {values[PREFIX + 'stderr']:.1%})"


def make_probe(config: Config, ranks: Ranks, images: ImageSet, count: int) -> Probe:
    """Decode this rank's share of ``count`` of the search images."""
    order = balanced_order(images.labels, count, config.run.seed)
    fewer = "search images", "lower data.search_per_class"
    share = decode_share(images, order, config.data, config.space.image_size, ranks, fewer)
    return Probe(probed_subnets(config), config, share)


def plan(task: Task, available: int) -> Schedule | None:
    """Return the schedule for a training of a supernet with ``available`` search images; None for no evaluation."""
    config, steps = task.config, count_steps(task)
    macs = [sum(spec_macs(spec) for spec in task.subnets(step)) for step in range(0, steps[1], -(-steps[1] // 256))]
    probed = sum(spec_macs(spec) for spec in probed_subnets(config).values())
    trained = steps[1] * task.training.batch_size * (1 + BACKWARD) * sum(macs) / len(macs) / probed
    overhead = len(probed_subnets(config)) / (1 + BACKWARD)  # as many operators are launched as in these steps
    return schedule(config.supernet.eval_every, steps, trained, config.search.images or available, overhead)


def evaluation(task: Task, ranks: Ranks, images: ImageSet, when: Schedule) -> tuple[Evaluation, Probe]:
    """Return the evaluation for a training task, and its probe. All ranks call it."""
    probe = make_probe(task.config, ranks, images, when.images)
    return Evaluation(when.every, probe, probe.describe), probe
