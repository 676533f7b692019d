"""Scores of subnets: the accuracy that they reach on the search images with the supernet's weights.

The images are decoded once and stay in memory as uint8. They are cut into batches in one fixed order, and a batch of a
candidate is always computed whole, so that counts of right answers, and with them the scores, do not depend on how
many ranks there are or how they share the work.
"""
# n images, B batch, S sides, C classes

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.distributed import preemption, watchdog
from vitas_ds.distributed.comm import Ranks, all_sum
from vitas_ds.errors import Preempted, UserError
from vitas_ds.search.scoring import racing
from vitas_ds.search.scoring.candidates import ScoreFunction
from vitas_ds.search.scoring.ledger import Score, score_of


@dataclass(frozen=True)
class Scorer:
    """``scorer(specs)`` yields a ``Score`` for each spec, in order. All ranks call it with the same specs.

    Ranks work in groups of ``ranks_per_candidate`` (0: all in one group): each group scores its own candidate, and its
    members share that candidate's batches. After each round of one candidate a group, all ranks know its scores; if one
    of them was told to stop (stopping.py) by then, these are the last, and all raise ``Preempted``.
    """

    supernet: nn.Module  # (images [B, 3, H, W], spec) -> logits [S, B, C]
    pixels: Tensor  # uint8 [n, 3, H, W], on the CPU or on the rank's device
    labels: Tensor  # int64 [n]
    prepare: Callable[[Tensor], Tensor]  # uint8 batch -> what the supernet takes
    order: np.ndarray  # the images to score on, see ``balanced_order``
    ranks: Ranks
    batch_size: int = 256
    side_rule: str = "accuracy_mean"  # search.side_rule
    ranks_per_candidate: int = 1
    autocast: torch.dtype | None = None
    keep_points: bool = False  # a score says what each image earned

    def __post_init__(self) -> None:
        if not len(self.order):
            raise UserError("data.search_per_class: there are no search images to score on")
        if self.ranks.world_size % self._members:
            raise UserError(
                f"search.ranks_per_candidate: {self._members} does not divide the {self.ranks.world_size} ranks"
            )

    @property
    def images(self) -> int:
        """How many images a score is measured on."""
        return len(self.order)

    @property
    def _members(self) -> int:
        return self.ranks_per_candidate or self.ranks.world_size

    def __call__(self, specs: list[SubnetSpec]) -> Iterator[Score]:
        group, member = divmod(self.ranks.rank, self._members)
        groups = self.ranks.world_size // self._members
        for first in range(0, len(specs), groups):
            counts = torch.zeros(groups + 1, self.images + 1, dtype=torch.int64, device=self.ranks.device)
            if first + group < len(specs):
                watchdog.at(f"scoring net {first + group + 1} of {len(specs)}")
                counts[group] = self.count(specs[first + group], member)
            counts[groups] = preemption.asked()
            watchdog.at(watchdog.WAITING)
            *rows, stop = all_sum(counts).cpu().numpy()
            for row in rows[: len(specs) - first]:
                yield self._score(row[:-1], int(row[-1]))
            if stop[0]:
                raise Preempted("stopped; what was scored is in the ledger, start it again to go on")

    def count(self, spec: SubnetSpec, member: int = 0) -> Tensor:
        """int64 [n + 1]: the points of each image of this member's batches, then the most points possible."""
        self.supernet.eval()
        total = torch.zeros(self.images + 1, dtype=torch.int64, device=self.ranks.device)
        with torch.inference_mode(), self._precision():
            for first in range(member * self.batch_size, self.images, self._members * self.batch_size):
                watchdog.at()
                ids = torch.from_numpy(self.order[first : first + self.batch_size]).to(self.pixels.device)
                images = self.prepare(self.pixels[ids].to(self.ranks.device, non_blocking=True))
                labels = self.labels[ids.to(self.labels.device)].to(self.ranks.device, non_blocking=True)
                right_SB = _right(self.supernet(images, spec), labels, self.side_rule)
                total[first : first + len(ids)] = right_SB.sum(0)
                total[-1] += right_SB.numel()
        return total

    def _score(self, points: np.ndarray, chances: int) -> Score:
        score = score_of(int(points.sum()), int((points**2).sum()), len(points), chances)
        return replace(score, points="".join(map(str, points.tolist()))) if self.keep_points else score

    def _precision(self) -> torch.autocast | nullcontext:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.ranks.device.type, self.autocast)


def _right(logits: Tensor, labels: Tensor, side_rule: str) -> Tensor:
    """[S, B] bool: whether each side (accuracy_mean), or their sum (logit_sum: S = 1), of [S, B, C] is right."""
    if side_rule == "logit_sum":
        logits = logits.sum(0, keepdim=True)
    return (logits.argmax(-1) == labels) & logits.isfinite().all(-1)  # no number, no right answer


def looks(scorer: Scorer) -> list[tuple[int, ScoreFunction]]:
    """The scorer cut into the looks of a race: the images that each adds, and what scores on these alone.

    The batches stay the same, and with them the counts.
    """
    cuts = [0, *racing.ends(scorer.images, scorer.batch_size)]
    return [(b - a, replace(scorer, order=scorer.order[a:b], keep_points=True)) for a, b in pairwise(cuts)]


def balanced_order(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """``count`` images (0: all) in a fixed random order of which every beginning has all classes equally often (+-1).

    Raises:
        UserError: there are fewer images.
    """
    labels = np.asarray(labels)
    if count > len(labels):
        raise UserError(f"search.images: {count} is above the {len(labels)} search images held out")
    shuffled = np.random.default_rng([seed, 0x0D]).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]  # classes in turn, shuffled within
    sizes = np.bincount(labels, minlength=1)
    starts = np.cumsum(sizes) - sizes
    turn = np.arange(len(labels)) - starts[labels[by_class]]  # place of each image within its class
    place = np.empty(len(labels), np.int64)
    place[by_class] = turn
    return shuffled[np.argsort(place[shuffled], kind="stable")][: count or None]
