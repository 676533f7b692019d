"""Score subnets: their accuracy on the search images with the weights of the supernet.

The images are decoded once and kept in memory as uint8. They are split into batches in a fixed order, and a batch of a
candidate is always computed by one rank. Therefore the counts of correct answers, and with them the scores, do not
depend on the number of ranks or on how the ranks share the work.
"""
# n images, B batch, S sides, C classes

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.distributed import preemption, watchdog
from vitas_ds.distributed.comm import Ranks, all_sum
from vitas_ds.errors import Preempted, UserError
from vitas_ds.models.supernet import Supernet
from vitas_ds.search.scoring import graphs
from vitas_ds.search.scoring.candidate import Score, score_from_counts
from vitas_ds.search.scoring.limits import check_group_size, check_image_count
from vitas_ds.search.scoring.racing import Round, round_ends


@dataclass(frozen=True)
class Scorer:
    """Scores subnets. All ranks call it with the same specs.

    Ranks work in groups of ``ranks_per_candidate``. Each group scores its own candidate, and its ranks share the
    batches of that candidate. After each group has scored one candidate, all ranks have these scores. If a rank has
    received a stop signal by then (preemption.py), all ranks raise ``Preempted`` after these scores.

    Attributes:
        supernet: The supernet, on the rank's device.
        pixels: Decoded images, uint8 [n, 3, H, W], on the CPU or the rank's device.
        labels: int64 [n].
        prepare: Converts a uint8 batch to the supernet's input.
        order: Indices of the images to score on, see ``balanced_order``.
        ranks: Process group.
        batch_size: Images per batch.
        side_rule: ``search.side_rule``: accuracy_mean or logit_sum.
        ranks_per_candidate: Ranks per group; 0 for one group of all ranks.
        autocast: Data type of autocast; None for fp32.
        keep_points: Whether scores include the points of each image.
        cuda_graphs: ``search.cuda_graphs``: replay the batches of a candidate as a CUDA graph. Without effect on a CPU.
    """

    supernet: Supernet
    pixels: Tensor
    labels: Tensor
    prepare: Callable[[Tensor], Tensor]
    order: np.ndarray
    ranks: Ranks
    batch_size: int = 256
    side_rule: str = "accuracy_mean"
    ranks_per_candidate: int = 1
    autocast: torch.dtype | None = None
    keep_points: bool = False
    cuda_graphs: str | bool = False

    def __post_init__(self) -> None:
        if not len(self.order):
            raise UserError("data.search_per_class: there are no search images to score on")
        check_group_size(self.ranks_per_candidate, self.ranks.world_size)

    @property
    def images(self) -> int:
        """Number of images of a score."""
        return len(self.order)

    @property
    def _group_size(self) -> int:
        return self.ranks_per_candidate or self.ranks.world_size

    def __call__(self, specs: list[SubnetSpec]) -> Iterator[Score]:
        """Yield the score of each spec, in order."""
        group, member = divmod(self.ranks.rank, self._group_size)
        groups = self.ranks.world_size // self._group_size
        for first in range(0, len(specs), groups):
            # One row per group. The last row counts the ranks with a stop signal: all must stop after the same scores.
            counts = torch.zeros(groups + 1, self.images + 1, dtype=torch.int64, device=self.ranks.device)
            if first + group < len(specs):
                watchdog.at(f"scoring candidate {first + group + 1} of {len(specs)}")
                counts[group] = self.count(specs[first + group], member)
            counts[groups] = preemption.requested()
            watchdog.at(watchdog.WAITING)
            *rows, stop = all_sum(counts).cpu().numpy()
            for row in rows[: len(specs) - first]:
                yield self._score(row[:-1], int(row[-1]))
            if stop[0]:
                raise Preempted("search stopped, all scores are in the ledger; start it again to resume")

    def count(self, spec: SubnetSpec, member: int = 0) -> Tensor:
        """Return the points of a subnet on one rank's share of the batches.

        Args:
            spec: The subnet.
            member: Index of the rank in its group.

        Returns:
            int64 [n + 1]: points of each image, 0 for images of other ranks; then the maximum number of points.
        """
        self.supernet.eval()
        device, size = self.ranks.device, self.batch_size
        total = torch.zeros(self.images + 1, dtype=torch.int64, device=device)
        starts = range(member * size, self.images, self._group_size * size)
        sides = len(self.supernet.sides) if self.side_rule == "accuracy_mean" else 1
        with torch.inference_mode(), self._precision():
            points = self._points(spec, len(starts))
            for first in starts:
                watchdog.at()
                part = slice(first, min(first + size, self.images))
                total[part] = points(*self._batch(part))
        total[-1] = sides * sum(min(size, self.images - first) for first in starts)
        return total

    def _points(self, spec: SubnetSpec, batches: int) -> graphs.Function:
        """Return a function from a batch of uint8 images [B, 3, H, W] and labels [B] to the points of a subnet [B]."""
        forward = self.supernet.bind(spec)

        def points(images: Tensor, labels: Tensor) -> Tensor:
            return correct(forward(self.prepare(images)), labels, self.side_rule).sum(0)

        if self.ranks.device.type != "cuda" or not graphs.pays(self.cuda_graphs, batches):
            return points
        return graphs.Replayed(points, graphs.cuda_capture(_graph_pool()))

    def _batch(self, part: slice) -> tuple[Tensor, Tensor]:
        """Return uint8 images and labels on the device. Nothing waits for the device."""
        device, labels = self.ranks.device, self._ordered_labels[part]
        if self.pixels.device.type == device.type:
            return self.pixels[self._order[part]], labels
        images = self.pixels[torch.from_numpy(self.order[part])]
        return images.pin_memory().to(device, non_blocking=True), labels

    @cached_property
    def _order(self) -> Tensor:
        return torch.from_numpy(self.order).to(self.ranks.device)

    @cached_property
    def _ordered_labels(self) -> Tensor:
        return self.labels.to(self.ranks.device)[self._order]

    def _score(self, points: np.ndarray, max_points: int) -> Score:
        score = score_from_counts(int(points.sum()), int((points**2).sum()), len(points), max_points)
        return replace(score, points="".join(map(str, points.tolist()))) if self.keep_points else score

    def _precision(self) -> torch.autocast | nullcontext:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.ranks.device.type, self.autocast)


@cache
def _graph_pool() -> Any:
    """Return the memory pool of all graphs of this process: they are never replayed at the same time."""
    return torch.cuda.graph_pool_handle()


def correct(logits: Tensor, labels: Tensor, side_rule: str) -> Tensor:
    """Return which of the logits [S, B, C] are correct, bool [S, B]; S = 1 with the rule logit_sum."""
    if side_rule == "logit_sum":
        logits = logits.sum(0, keepdim=True)
    return (logits.argmax(-1) == labels) & logits.isfinite().all(-1)  # argmax of NaN could match a label


def split_rounds(scorer: Scorer) -> list[Round]:
    """Split a scorer into the rounds of a race. The batches stay the same, and with them the counts."""
    cuts = [0, *round_ends(scorer.images, scorer.batch_size)]
    return [Round(b - a, replace(scorer, order=scorer.order[a:b], keep_points=True)) for a, b in pairwise(cuts)]


def balanced_order(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the indices of ``count`` images (0 for all) in a fixed random order.

    In every prefix of the order, the numbers of images of any two classes differ by at most one, as long as both
    classes have images left.

    Raises:
        UserError: There are fewer than ``count`` images.
    """
    labels = np.asarray(labels)
    check_image_count(count, len(labels))
    shuffled = np.random.default_rng([seed, 0x0D]).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]  # grouped by class, shuffled within each class
    sizes = np.bincount(labels, minlength=1)
    starts = np.cumsum(sizes) - sizes
    index_in_class = np.empty(len(labels), np.int64)
    index_in_class[by_class] = np.arange(len(labels)) - starts[labels[by_class]]
    return shuffled[np.argsort(index_in_class[shuffled], kind="stable")][: count or None]
