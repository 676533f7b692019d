"""The order of dropped layers measured by a run, for every stage. Importing this module does not import torch."""

from __future__ import annotations

from vitas_ds.arch.space import SearchSpace
from vitas_ds.config import Config
from vitas_ds.elastic.order import drop_order
from vitas_ds.elastic.scores import read_scores
from vitas_ds.run.run_dir import run_of
from vitas_ds.stages.source_run import source_run


def with_drop_order(config: Config) -> Config:
    """Return the configuration with the order of dropped layers, if this run or its supernet's has measured one."""
    elastic = config.space.elastic
    if not elastic.on or elastic.drop_order is not None:
        return config
    for run in (source_run(config), run_of(config)):
        if run is not None and run.importance.is_file():
            return ordered(config, drop_order(read_scores(run.importance)))
    return config


def ordered(config: Config, order: tuple[int, ...] | None) -> Config:
    """Return the configuration with this order of dropped layers."""
    fields = config.space.model_dump()
    fields["elastic"] |= {"drop_order": order}
    return config.model_copy(update={"space": SearchSpace(**fields)})
