"""Check a configuration before a stage starts. Importing this module does not import torch.

Rules that another package enforces as well are functions of that package, which are called here.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from vitas_ds.arch.published import find_spec
from vitas_ds.config import Config, Data, Finalists, Retrain, Search, Supernet, Teacher, Training
from vitas_ds.config.limits import parse_limit
from vitas_ds.data.resized import check_complete
from vitas_ds.data.shards import class_names
from vitas_ds.data.sources import check_class_count
from vitas_ds.data.walk import list_folder, shards_of, text_name
from vitas_ds.engine.ds_config import ds_config, micro_batch_size, zero_stage
from vitas_ds.errors import UserError, shorten
from vitas_ds.run.files import read_json
from vitas_ds.run.run_dir import reused_ledger, run_of
from vitas_ds.run.tracking import check_tracking
from vitas_ds.search.feasible import budget
from vitas_ds.search.feasible.several import feasible_sets
from vitas_ds.search.latency.limits import choose_runtime
from vitas_ds.search.latency.table import read_table
from vitas_ds.search.scoring.limits import check_group_size, check_image_count
from vitas_ds.search.selector import ALL_BUDGETS, Bound, ListEntry, find_source, parse_choice
from vitas_ds.search.trials.plan import make_rungs
from vitas_ds.stages.model_folders import (
    INIT,
    TIMM,
    check_inherits,
    check_teacher,
    find_model,
    is_checkpoint,
    is_unfinished,
)
from vitas_ds.stages.source_run import check_source
from vitas_ds.stages.validate_pretrained import check_pretrained, check_retrain_teacher

MAX_INITIAL = 0.1  # share of initial weights in the averaged weights of a finalist above which to warn
ACCELERATORS = ("cpu", "cuda")
NEEDS_TRAIN = ("train-supernet", "search", "retrain")


def check(config: Config, stage: str, ranks: int, again: bool = False) -> None:
    """Check the inputs of a stage, and warn about ignored settings.

    Args:
        config: The resolved configuration.
        stage: Name of the stage, or "config" to check the settings of all stages without reading data or ledgers.
        ranks: Number of ranks.
        again: The stage will make its results again, and needs all of its inputs.

    Raises:
        UserError: The first problem, as one line.
    """
    if stage != "config":  # which may run on another machine
        _check_accelerator()
        check_tracking(config)
    if stage in ("train-supernet", "config"):
        check_training(config, "supernet", ranks)
    if stage in ("retrain", "config"):
        check_training(config, "retrain", ranks)
    if stage in (*NEEDS_TRAIN, "config"):
        config.data.check_resize(config.space.image_size)
    if stage in ("train-supernet", "search", "config"):
        _check_supernet_and_search(config, stage, ranks, again)
    if stage in (*NEEDS_TRAIN, "config"):
        check_retrain_teacher(config, stage)
    if stage in NEEDS_TRAIN:
        _check_models(config, stage, again)
    _check_data(config.data, config.run.device)
    if (stage in NEEDS_TRAIN or stage == "evaluate") and not config.data.synthetic:
        _check_folders(config, stage, again)


def _check_accelerator() -> None:
    """Check the variable with which DeepSpeed chooses a device; it supports more of them than this program."""
    given = os.environ.get("DS_ACCELERATOR", ACCELERATORS[0])
    if given not in ACCELERATORS:
        raise UserError(
            f"DS_ACCELERATOR: must be {' or '.join(ACCELERATORS)}, or not set (given: {shorten(given, 60)!r})"
        )


def _check_supernet_and_search(config: Config, stage: str, ranks: int, again: bool) -> None:
    """Check the settings of the search before the supernet trains too: finding errors after it would cost days."""
    feasible_sets(config.space, config.search)
    _check_distribution(config)
    check_image_count(config.search.images, config.data.search_per_class * config.space.num_classes)
    done = {"train-supernet": run_of(config).supernet_weights, "config": run_of(config).retrain_weights}
    if stage in done and not done[stage].exists():  # search checks it once it knows the networks to train
        check_short_trainings(config)
    _check_finalists(config, ranks)
    _check_latency(config, stage)
    if stage == "search":  # other stages of the run may have other ranks and start before the ledger exists
        _check_search(config.search, ranks)
        check_source(config, needed=again or not run_of(config).best.exists())
    _warn_ignored(config.supernet, config.search, config.space.elastic.on)
    check_pretrained(config, stage)
    _check_choice(config)


def check_training(config: Config, section: str, ranks: int) -> None:
    """Check the settings of a training stage, ``supernet`` or ``retrain``.

    Raises:
        UserError: They contradict each other.
    """
    training: Training = getattr(config, section)
    if not training.epochs:  # allowed in retrain only
        if config.retrain.init == "scratch":
            raise UserError("retrain.epochs: 0 keeps the initial weights, which are random; set retrain.init")
    elif training.warmup_epochs > training.epochs:
        raise UserError(
            f"{section}.warmup_epochs: {training.warmup_epochs:g} is above {section}.epochs {training.epochs}: the "
            "learning rate would never reach its peak"
        )
    if section == "retrain" and config.engine.compile is True and zero_stage(config.engine)[0] == 3:
        raise UserError(
            "engine.compile: a network compiled as a whole cannot be gathered layer by layer, as ZeRO 3 does; use "
            "engine.zero=zero2, or engine.compile=false for retrain"
        )
    retrain = config.retrain
    if section == "retrain" and retrain.freeze and retrain.init == "scratch" and not _starts_elsewhere(retrain):
        warnings.warn("retrain.freeze: retrain.init is scratch: the frozen weights are random", stacklevel=2)
    micro_batch_size(training, ranks, section)
    ds_config(config.engine, training, ranks)
    _warn_ignored_teacher(training.teacher, section)


def check_short_trainings(config: Config) -> None:
    """Check that the search can train networks, if it has to. A finished one does not: retrain may have other settings.

    Raises:
        UserError: ``retrain.epochs`` is 0.
    """
    if not config.retrain.epochs and (config.search.finalists.count or config.search.check.nets):
        raise UserError(
            "retrain.epochs: 0, but finalists and check train networks with the settings of retrain; set it for the "
            "stage retrain only (elastic: --direct)"
        )


def _starts_elsewhere(training: Training) -> bool:
    return bool(training.init_weights or training.resume_from)


def _check_search(search: Search, ranks: int) -> None:
    check_group_size(search.ranks_per_candidate, ranks)
    if search.reuse and not reused_ledger(search.reuse).is_file():
        raise UserError(
            f"search.reuse: {search.reuse}: no such ledger; give a run that has searched, or the file ledger.jsonl of "
            "another search"
        )


def _check_latency(config: Config, stage: str) -> None:
    """Check how latencies are measured, and warn about settings without effect."""
    search = config.search
    timed = search.timed or config.supernet.throughput is not None
    defaults = Search()
    names = ("latency_also", "latency_runtime", "latency_precision", "latency_table", "latency_device")
    changed = [name for name in names if getattr(search, name) != getattr(defaults, name)]
    if not timed and changed:
        warnings.warn(
            f"search.{changed[0]} is ignored: the run measures no latency; set search.latency or search.throughput",
            stacklevel=2,
        )
    if not timed:
        return
    if search.latency_table:
        if stage != "config":
            read_table(search, config.space, budget.from_config(search.covering()) if search.timed else {})
        if search.latency_also:
            warnings.warn("search.latency_also is ignored: search.latency_table replaces measurements", stacklevel=2)
        return
    choose_runtime(search, config.engine.precision, "cuda" if config.run.device == "auto" else config.run.device)
    if search.latency_device:
        warnings.warn("search.latency_device is ignored: search.latency_table is not set", stacklevel=2)


def _check_distribution(config: Config) -> None:
    """Check that ``supernet.distribution: budget`` has a budget whose networks are known without measurements."""
    if config.supernet.distribution == "uniform":
        return
    if not all(budget.from_config(one) for one in config.search.each_budget()):
        raise UserError(
            "supernet.distribution: budget needs a budget that needs no measurement; set search.macs, or use "
            "supernet.distribution=uniform"
        )
    for name in ("macs", "throughput"):
        if getattr(config.supernet, name) is not None:
            warnings.warn(f"supernet.{name} is ignored: supernet.distribution is budget", stacklevel=2)


def _check_finalists(config: Config, ranks: int) -> None:
    """Check the trainings of finalists, and warn about settings that weaken them."""
    cfg, candidates = config.search.finalists, config.search.candidates
    if cfg.count or config.search.check.nets:
        for name in ("layer_decay", "freeze", "distill_token"):
            if getattr(config.retrain, name) != getattr(Retrain(), name):
                warnings.warn(f"retrain.{name} is ignored in the short trainings of the search", stacklevel=2)
    changed = [name for name in ("keep", "init") if getattr(cfg, name) != getattr(Finalists(), name)]
    if not cfg.count:
        if changed:
            warnings.warn(f"search.finalists.{changed[0]} is ignored: search.finalists.count is 0", stacklevel=2)
        return
    if cfg.count > candidates:
        warnings.warn(
            f"search.finalists.count: {cfg.count}, but the search has only {candidates} candidates; all are trained",
            stacklevel=2,
        )
    rungs = make_rungs(cfg, candidates)
    micro_batch_size(config.retrain, ranks, "retrain")
    initial = config.retrain.ema_decay ** rungs[0].steps
    if config.retrain.ema_decay and initial > MAX_INITIAL:
        warnings.warn(
            f"retrain.ema_decay: after the first rung ({rungs[0].steps} steps), {initial:.0%} of the averaged weights, "
            "which rank the finalists, are the initial ones; lower it, or raise search.finalists.steps", stacklevel=2,
        )  # fmt: skip


def _check_choice(config: Config) -> None:
    """Check that ``retrain.spec`` is a valid spec, or a valid choice of a search result of this or another run."""
    spec, top_k = config.retrain.spec, max(config.search.top_k, config.search.finalists.count)
    top_k = len(config.search.budgets) or top_k  # the best one of each
    source = find_source(spec)
    if spec == "init":
        return
    if source is None:
        found = find_spec(spec)
        if config.retrain.init == "supernet":
            check_inherits(found, config.space)
        return
    if source.choice == ALL_BUDGETS and not source.run and not config.search.budgets:
        raise UserError(f"retrain.spec: {spec}: search.budgets is empty")
    for _, text in source.single(len(config.search.budgets)):
        choice = parse_choice(text)
        if not source.run:
            _check_own_choice(config, text, choice, top_k)


def _check_own_choice(config: Config, spec: str, choice: ListEntry | Bound, top_k: int) -> None:
    """Check that the search of this run will have an entry."""
    budgets = len(config.search.budgets)
    if isinstance(choice, ListEntry) and choice.name == "budget" and choice.index >= budgets:
        known = f"it has search:budget[0] to search:budget[{budgets - 1}]" if budgets else "search.budgets is empty"
        raise UserError(f"retrain.spec: {spec}: {known}")
    if isinstance(choice, ListEntry) and choice.name == "best" and not 1 <= choice.index <= top_k:
        raise UserError(
            f"retrain.spec: {spec}: the search keeps search:best[1] to search:best[{top_k}]; increase search.top_k"
        )
    if isinstance(choice, Bound) and choice.limit <= 0:
        raise UserError(f"retrain.spec: {spec}: every candidate costs more; the bound must be above 0")
    if isinstance(choice, Bound) and choice.cost == "latency" and not config.search.timed:
        raise UserError(
            f"retrain.spec: {spec}: the search measures no latency; set search.latency or search.throughput, or use "
            "nsga2 with latency in search.objectives"
        )


def _check_models(config: Config, stage: str, again: bool) -> None:
    """Check the trained networks that this stage and later ones read. Finished stages need none.

    A later stage may name a run whose network is still in training.
    """
    run = run_of(config)
    own_teacher = config.supernet.teacher.model not in (None, INIT)
    if stage == "train-supernet" and own_teacher and (again or not run.supernet_weights.exists()):
        check_teacher(config.supernet.teacher, "supernet", config.space)
    if run.retrain_weights.exists() and not (again and stage == "retrain"):
        return
    teacher, init = config.retrain.teacher, config.retrain.init
    known = init in ("scratch", "supernet") or is_checkpoint(init)  # the stage reads the shapes in a checkpoint

    def must_exist(model: str) -> bool:
        return stage == "retrain" or not is_unfinished(model)

    if teacher.model not in (None, INIT) and must_exist(str(teacher.model)):
        check_teacher(teacher, "retrain", config.space)
    if not known and must_exist(init) and (again or not any(run.retrain.checkpoints.glob("step-*"))):
        find_model(init, "retrain.init")  # it may have other classes and another image size


def _check_data(data: Data, device: str) -> None:
    """Warn about random images and about settings without effect."""
    if data.synthetic:
        warnings.warn(
            "data.synthetic: random images replace data.train and data.val; accuracies, scores and networks of this "
            "run mean nothing", stacklevel=2,
        )  # fmt: skip
    elif data.decoder == "host" and device == "cpu":
        warnings.warn("data.decoder is ignored: run.device is cpu, which always decodes on the host", stacklevel=2)


def _check_folders(config: Config, stage: str, again: bool) -> None:
    """Check that the image folders have the same classes, ``space.num_classes`` of them.

    Only the folder of this stage must exist, and only while the stage has no results.
    """
    run = run_of(config)
    results = {"train-supernet": run.supernet_weights, "search": run.best, "retrain": run.retrain_weights}
    evaluated_on = read_json(run.evaluation, {}).get("val")
    required = {
        "data.train": stage in NEEDS_TRAIN and (again or not results[stage].exists()),
        "data.val": stage == "evaluate" and evaluated_on != os.path.abspath(config.data.val),
    }
    classes = {}
    for field, folder in (("data.train", config.data.train), ("data.val", config.data.val)):
        if folder and not required[field] and not Path(folder).is_dir():
            if (field, stage) != ("data.train", "evaluate"):
                warnings.warn(f"{field}: {folder}: no such folder", stacklevel=2)
        elif folder:
            _check_resized(field, folder, config.data.resize)  # first: classes may be missing in an unfinished folder
            classes[field] = _classes(field, folder, config.space.num_classes)
        elif required[field]:
            raise UserError(f"{field}: empty; give the folder of images, one folder per class")
    if all(classes.get(field) for field in required) and classes["data.train"] != classes["data.val"]:
        different = min(classes["data.train"] ^ classes["data.val"])
        field = "data.train" if different in classes["data.train"] else "data.val"
        raise UserError(f"data.train and data.val have different classes: {different} is only in {field}")


def _check_resized(field: str, folder: str, resize: int) -> None:
    """Check that ``resize-data`` has finished a folder, and warn if its images are too small."""
    short_side = check_complete(folder)
    if short_side is not None and short_side < resize:
        warnings.warn(
            f"data.resize: {resize} is above the short side {short_side} to which resize-data shrank {field}: "
            "evaluation enlarges the images", stacklevel=2,
        )  # fmt: skip


def _classes(field: str, folder: str, num_classes: int) -> set[str]:
    """Return the names of the classes; numbers for shards without names, empty without folders and shards."""
    if not Path(folder).is_dir():
        raise UserError(f"{field}: {folder}: no such folder")
    classes, kind = set(map(text_name, list_folder(folder).folders)), "class folders"
    if not classes and shards_of(folder):
        classes, kind = set(class_names(folder, 0) or map(str, range(num_classes))), "classes in classes.json"
    if classes:
        check_class_count(num_classes, len(classes), folder, kind)
    return classes


def _warn_ignored_teacher(teacher: Teacher, section: str) -> None:
    """Warn about settings of a teacher without effect."""
    if teacher.weights and not (teacher.model or "").startswith(TIMM):
        warnings.warn(f"{section}.teacher.weights is ignored: {section}.teacher.model is not timm:NAME", stacklevel=2)
    changed = [name for name in ("kind", "weight", "temperature") if getattr(teacher, name) != getattr(Teacher(), name)]
    if teacher.model is None and changed:
        warnings.warn(f"{section}.teacher.{changed[0]} is ignored: {section}.teacher.model is not set", stacklevel=2)
    elif teacher.kind == "hard" and "temperature" in changed:
        warnings.warn(f"{section}.teacher.temperature is ignored: {section}.teacher.kind is hard", stacklevel=2)


def _warn_ignored(supernet: Supernet, search: Search, elastic: bool) -> None:
    """Warn about settings without effect."""
    one_subnet = "supernet.sampling is single, it needs sandwich"
    one_side = "supernet.sharing has one side"
    sandwich = supernet.sampling == "sandwich"
    ignored = [
        ("supernet.distill", supernet.distill and not sandwich, one_subnet),
        (
            "supernet.distill",
            supernet.distill and sandwich and supernet.teacher.model is not None,
            "all subnets learn from supernet.teacher",
        ),
        ("supernet.random_subnets", supernet.random_subnets != 2 and not sandwich, one_subnet),
        (
            "supernet.complementary",
            supernet.complementary and sandwich and not supernet.random_subnets,
            "supernet.random_subnets is 0",
        ),
        ("supernet.objective", supernet.sharing != "bilateral" and supernet.objective == "loss_mean", one_side),
        ("search.side_rule", supernet.sharing != "bilateral" and search.side_rule != "accuracy_mean", one_side),
        ("search.seeds", search.seeds != Search().seeds and not elastic, "the space has no pretrained network"),
        ("search.objectives", search.objectives and search.algorithm != "nsga2", "search.algorithm is not nsga2"),
        *(
            (f"search.{name}", getattr(search, name) is not None, "search.budgets has its limits")
            for name in sorted({parse_limit(text).cost for text in search.budgets})
        ),
        ("search.racing", search.racing and search.algorithm == "random", "random search selects no survivors"),
        ("search.surrogate", search.surrogate and search.algorithm == "random", "random search draws every candidate"),
    ]
    for key, is_ignored, reason in ignored:
        if is_ignored:
            warnings.warn(f"{key} is ignored: {reason}", stacklevel=2)
