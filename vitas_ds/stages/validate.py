"""What can be known to be wrong with a run before anything starts. No torch."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from vitas_ds.arch.published import find_spec
from vitas_ds.config import Config, Training
from vitas_ds.data.shards import class_names, shards_of
from vitas_ds.engine.ds_config import ds_config
from vitas_ds.errors import UserError
from vitas_ds.search.feasible import budget
from vitas_ds.search.feasible.table import feasible_set
from vitas_ds.search.selector import Bound, Listed, parse

NEEDS_TRAIN = ("train-supernet", "search", "retrain")


def check(config: Config, stage: str, ranks: int) -> None:
    """Raise ``UserError``, one line, for the first thing that stage cannot work with; warn of settings it ignores.

    ``stage`` "config" checks the numbers of all stages, and no files.
    """
    for section, trains in (("supernet", "train-supernet"), ("retrain", "retrain")):
        if stage in (trains, "config"):
            _check_training(getattr(config, section), section, ranks)
            ds_config(config.engine, getattr(config, section), ranks)
    if stage in (*NEEDS_TRAIN, "config") and config.data.resize < config.space.image_size:
        size = config.space.image_size
        raise UserError(f"data.resize: {config.data.resize} is below space.image_size={size}; {size} or above")
    if stage in ("train-supernet", "search", "config"):
        feasible_set(config.space, budget.from_config(config.search))
        _check_search(config, ranks if stage == "search" else None)
        _warn_ignored(config)
    if stage in ("train-supernet", "search", "config"):  # found missing only after the search, it would have cost days
        _check_choice(config)
    if stage in NEEDS_TRAIN or stage == "evaluate":
        _check_folders(config, stage)


def _check_choice(config: Config) -> None:
    word, top_k = config.retrain.spec, config.search.top_k
    if not word.startswith("search:"):
        find_spec(word)
        return
    choice = parse(word)
    if isinstance(choice, Listed) and choice.list == "best" and not 1 <= choice.index <= top_k:
        raise UserError(f"retrain.spec: {word}: search.top_k={top_k} keeps search:best[1] to search:best[{top_k}]")
    if isinstance(choice, Bound) and choice.limit <= 0:
        raise UserError(f"retrain.spec: {word}: no net has so little; the bound must be above 0")
    if isinstance(choice, Bound) and choice.cost == "latency" and not config.search.timed:
        raise UserError(
            f"retrain.spec: {word}: the search measures no latency; search.latency, search.throughput, or an nsga2 "
            "with latency among search.objectives asks for it"
        )


def _check_training(training: Training, section: str, ranks: int) -> None:
    if training.warmup_epochs > training.epochs:
        raise UserError(
            f"{section}.warmup_epochs: {training.warmup_epochs:g} is above {section}.epochs {training.epochs}, "
            "so that the learning rate would never reach its peak"
        )
    parts = ranks * training.grad_accum_steps
    if training.batch_size % parts:
        raise UserError(
            f"{section}.batch_size: {training.batch_size} is not a multiple of {ranks} ranks x "
            f"{section}.grad_accum_steps={training.grad_accum_steps}"
        )


def _check_search(config: Config, ranks: int | None) -> None:
    """What the search would refuse after the supernet's training. ``ranks``: of the search; None: it is not now."""
    search, held_out = config.search, config.data.search_per_class * config.space.num_classes
    if search.images > held_out:
        raise UserError(
            f"search.images: {search.images} is above the {held_out} search images held out, "
            f"data.search_per_class={config.data.search_per_class} of {config.space.num_classes} classes"
        )
    if ranks is None:
        return
    if search.ranks_per_candidate and ranks % search.ranks_per_candidate:
        raise UserError(f"search.ranks_per_candidate: {search.ranks_per_candidate} does not divide the {ranks} ranks")
    if search.reuse and not Path(search.reuse).is_file():
        raise UserError(f"search.reuse: {search.reuse}: no such ledger; give the file ledger.jsonl of another search")


def _check_folders(config: Config, stage: str) -> None:
    """The folders exist, have the same classes, and as many as the space."""
    names = {}
    needed = {"data.train": stage in NEEDS_TRAIN, "data.val": stage == "evaluate"}
    for field, folder in (("data.train", config.data.train), ("data.val", config.data.val)):
        if not folder:
            if needed[field]:
                raise UserError(f"{field}: empty; give the folder of images, one folder a class")
            continue
        if not Path(folder).is_dir():
            raise UserError(f"{field}: {folder}: no such folder")
        folders = {entry.name for entry in os.scandir(folder) if entry.is_dir()}
        names[field] = folders or _classes_of_shards(folder, config.space.num_classes)
        if names[field] and len(names[field]) != config.space.num_classes:
            found = f"{len(names[field])} {'class folders' if folders else 'classes in classes.json'}"
            raise UserError(f"space.num_classes: {config.space.num_classes}, but {folder} has {found}")
    if all(names.get(field) for field in needed) and names["data.train"] != names["data.val"]:
        odd = sorted(names["data.train"] ^ names["data.val"])
        where = "data.train" if odd[0] in names["data.train"] else "data.val"
        raise UserError(f"data.train and data.val have different classes: {odd[0]} is in {where} alone")


def _classes_of_shards(folder: str, count: int) -> set[str]:
    """The classes that shards say or, where they say none, that ``count`` of them have; empty: there are no shards."""
    return set(class_names(folder, 0) or map(str, range(count))) if shards_of(folder) else set()


def _warn_ignored(config: Config) -> None:
    supernet = config.supernet
    if supernet.distill and supernet.sampling == "single":
        warnings.warn("supernet.distill is ignored: supernet.sampling is single, it needs sandwich", stacklevel=2)
    if supernet.sharing != "bilateral" and supernet.objective == "loss_mean":
        warnings.warn("supernet.objective is ignored: supernet.sharing has one side", stacklevel=2)
    if supernet.random_subnets != 2 and supernet.sampling == "single":
        warnings.warn(
            "supernet.random_subnets is ignored: supernet.sampling is single, it needs sandwich", stacklevel=2
        )
    if supernet.complementary and supernet.sampling == "sandwich" and not supernet.random_subnets:
        warnings.warn("supernet.complementary is ignored: supernet.random_subnets is 0", stacklevel=2)
    search = config.search
    if search.objectives and search.algorithm != "nsga2":
        warnings.warn("search.objectives is ignored: search.algorithm is not nsga2", stacklevel=2)
    if search.side_rule != "accuracy_mean" and supernet.sharing != "bilateral":
        warnings.warn("search.side_rule is ignored: supernet.sharing has one side", stacklevel=2)
