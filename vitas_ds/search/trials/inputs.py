"""Inputs of a search: the trained supernet and the images."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vitas_ds.config import Config, format_value
from vitas_ds.data.sources import ImageSet, fingerprint
from vitas_ds.distributed.comm import Ranks
from vitas_ds.elastic.scores import Scores
from vitas_ds.engine.precision import DTYPES, fast_precision
from vitas_ds.models.supernet import Supernet
from vitas_ds.search.scoring import racing
from vitas_ds.search.scoring.ledger import Scoring
from vitas_ds.search.scoring.scorer import Scorer, balanced_order
from vitas_ds.training.teacher import TeacherNetwork


def scoring_precision(config: Config, device: torch.device) -> str:
    """Return ``search.precision``, or the default on a device."""
    return config.search.precision or fast_precision(device, config.engine.precision)


@dataclass(frozen=True)
class ScoringInputs:
    """Supernet and images.

    Attributes:
        supernet: See ``Scorer``.
        digest: SHA-256 of the supernet's weights.
        images: The search images.
        pixels: The search images, decoded: uint8 [n, 3, H, W].
        prepare: Converts a uint8 batch to the supernet's input.
        training: Training images of the supernet. Only finalists need them.
        teacher: Teacher of the stage retrain, which the finalists have as well.
        contents: Digest of names and contents of the search images.
        importance: Importance of the units of the pretrained network from which the supernet started.
    """

    supernet: Supernet
    digest: str
    images: ImageSet
    pixels: Tensor
    prepare: Callable[[Tensor], Tensor]
    training: ImageSet | None = None
    teacher: TeacherNetwork | None = None
    contents: str = ""
    importance: Scores | None = None

    def make_scorer(self, config: Config, ranks: Ranks, count: int) -> Scorer:
        """Return a scorer on ``count`` search images (0 for all). Raises ``UserError`` if there are fewer."""
        cfg, precision = config.search, scoring_precision(config, ranks.device)
        order = balanced_order(self.images.labels, count, config.run.seed)
        if cfg.cuda_graphs is True and ranks.device.type != "cuda":
            # stacklevel 1: a search makes several scorers, and the warning is printed once
            warnings.warn("search.cuda_graphs is ignored: the candidates are scored on a CPU", stacklevel=1)
        return Scorer(
            self.supernet.to(ranks.device), self.pixels, torch.from_numpy(self.images.labels), self.prepare, order,
            ranks, min(config.data.eval_batch_size, -(-len(order) // racing.MIN_BATCHES)), cfg.side_rule,
            cfg.ranks_per_candidate, autocast=None if precision == "fp32" else DTYPES[precision],
            cuda_graphs=cfg.cuda_graphs,
        )  # fmt: skip

    def settings(self, config: Config, device: torch.device) -> Scoring:
        """Return the settings that scores depend on, for the ledger."""
        data, elastic = config.data, config.space.elastic
        found: Scoring = {
            "supernet": self.digest, "search images": self.contents or fingerprint(self.images),
            "search.side_rule": config.search.side_rule, "search.precision": scoring_precision(config, device),
            "data.eval_batch_size": data.eval_batch_size, "data.resize": data.resize,
            "data.mean": format_value(data.mean), "data.std": format_value(data.std),
            "supernet.sharing": config.supernet.sharing,
        }  # fmt: skip
        return found | ({"space.elastic.drop_order": format_value(elastic.drop_order)} if elastic.on else {})
