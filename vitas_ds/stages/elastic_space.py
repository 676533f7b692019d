"""The order of dropped layers measured by a run, for every stage. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Sequence

from vitas_ds.arch.space import SearchSpace
from vitas_ds.config import Config
from vitas_ds.elastic.order import drop_order
from vitas_ds.elastic.scores import read_scores
from vitas_ds.recipe import find_run_folder, load
from vitas_ds.run.run_dir import RunDir, read_config, run_of
from vitas_ds.stages.source_run import supernet_run

Order = tuple[int, ...]


def load_with_order(recipe: str, words: Sequence[str]) -> Config:
    """Load a recipe, with the order in which its supernet drops layers if a run has measured one.

    A run that serves as a recipe has its measured order among its settings. That is one of its own network, so another
    run, or one that measures no importance any more, does not take it over.
    """
    config, folder = load(recipe, list(words)), find_run_folder(recipe, list(words))
    order, given = config.space.elastic.drop_order, any(word.startswith("space.elastic.drop_order=") for word in words)
    if folder is None or given or order is None:
        return with_drop_order(config)
    another = folder.absolute() != run_of(config).path.absolute()
    switched_off = load(str(folder), []).supernet.importance_images and not config.supernet.importance_images
    if (another or switched_off) and order in measured_orders(RunDir(folder)):
        config = ordered(config, None)
    return with_drop_order(config)


def with_drop_order(config: Config) -> Config:
    """Return the configuration with the order of dropped layers, if this run or its supernet's has measured one."""
    elastic, own, source = config.space.elastic, run_of(config), supernet_run(config)
    if not elastic.on or elastic.drop_order is not None:
        return config
    order = None
    if source.path.absolute() != own.path.absolute():  # its settings have the order, whether it was measured or given
        order = read_config(source).space.elastic.drop_order
    if order is None and config.supernet.importance_images and own.importance.is_file():
        order = drop_order(read_scores(own.importance))
    return config if order is None else ordered(config, order)


def measured_orders(run: RunDir) -> set[Order]:
    """Return the orders of dropped layers that a run has measured, now or before a start with ``--redo``."""
    old = run.path.glob(f"old/*/{run.importance.relative_to(run.path)}")
    return {drop_order(read_scores(path)) for path in (run.importance, *old) if path.is_file()}


def ordered(config: Config, order: Order | None) -> Config:
    """Return the configuration with this order of dropped layers."""
    fields = config.space.model_dump()
    fields["elastic"] |= {"drop_order": order}
    return config.model_copy(update={"space": SearchSpace(**fields)})
