"""Computation of the parts of a search, in MACs: those of a forward pass count once, of a training step three times."""

from __future__ import annotations

from dataclasses import dataclass

from vitas_ds.config import Config
from vitas_ds.models.channels import SIDES
from vitas_ds.search.trials.plan import PASSES, make_rungs, training_macs


@dataclass(frozen=True)
class Workload:
    """MACs of each part of a search."""

    check: float
    scoring: float
    finalists: float

    @property
    def total(self) -> float:
        """MACs of all parts."""
        return self.check + self.scoring + self.finalists


def count_candidates(config: Config) -> int:
    """Return the candidates of a search."""
    return config.search.candidates * max(len(config.search.budgets), 1)


def workload(config: Config, macs: float) -> Workload:
    """Return the computation of a search whose networks have ``macs`` MACs on average."""
    cfg, batch = config.search, config.retrain.batch_size
    images = cfg.images or config.data.search_per_class * config.space.num_classes
    finalists = 0.0
    if cfg.finalists.count:
        budgets = max(len(cfg.budgets), 1)  # each has finalists of its own
        finalists = budgets * training_macs(make_rungs(cfg.finalists, cfg.candidates), [round(macs)], batch)
    return Workload(
        check=PASSES * macs * cfg.check.nets * cfg.check.steps * batch,
        scoring=count_candidates(config) * images * macs * len(SIDES[config.supernet.sharing]),
        finalists=finalists,
    )
