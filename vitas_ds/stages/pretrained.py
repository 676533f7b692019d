"""The pretrained network of ``supernet.init``: load it, measure and reorder its units, and keep it in the run.

The folder ``supernet/pretrained/`` has the reordered network, in the format of an exported model. It initializes the
supernet, and ``supernet.teacher.model=init`` names it. A restarted stage uses it again; ``importance.json`` beside it
remains valid for these weights and images.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from vitas_ds.config import Config, dump
from vitas_ds.config.absolute import with_absolute_paths
from vitas_ds.config.parse import framed
from vitas_ds.data.loader import eval_batches
from vitas_ds.data.sources import ImageSet, fingerprint
from vitas_ds.distributed import comm, watchdog
from vitas_ds.distributed.comm import Ranks
from vitas_ds.distributed.watchdog import Watchdog
from vitas_ds.elastic.fill import fill
from vitas_ds.elastic.importance import measure
from vitas_ds.elastic.order import Order, by_importance, centered, drop_order, read_order, write_order
from vitas_ds.elastic.plot import plot_scores
from vitas_ds.elastic.reorder import reorder
from vitas_ds.elastic.scores import Scores, read_scores, write_scores
from vitas_ds.errors import UserError
from vitas_ds.export.card import model_card, read_license
from vitas_ds.export.folder import (
    Facts,
    Preprocess,
    atomic_folder,
    read_facts,
    read_model,
    read_preprocess,
    weights_digest,
    write_model_files,
)
from vitas_ds.export.kept import SOURCE
from vitas_ds.models.supernet import Supernet
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.run.files import file_digest, write_text
from vitas_ds.run.run_dir import RunDir
from vitas_ds.stages.elastic_space import measured_orders, ordered
from vitas_ds.stages.model_folders import TIMM, find_model
from vitas_ds.stages.teaching import check_classes
from vitas_ds.stages.validate_pretrained import check_largest

DRAW = 0x1A9F  # tag of the random stream of the images
BATCH_SIZE = 32  # images decoded at once
PROGRESS_SECONDS = 30.0  # between two lines


@dataclass(frozen=True)
class Pretrained:
    """A pretrained network, before it is reordered.

    Attributes:
        model: The network.
        preprocess: Its preprocessing.
        facts: Rows of its model card.
        license: License of its weights.
        digest: SHA-256 of the file of its weights.
        order: How its units were reordered before; None if they were not.
        where: Where it comes from, for messages.
    """

    model: VisionTransformer
    preprocess: Preprocess
    facts: Facts
    license: str
    digest: str
    order: Order | None
    where: str


def is_pretrained(config: Config) -> bool:
    """Return whether the supernet starts from a pretrained network."""
    return config.supernet.init != "scratch"


def prepare(config: Config, run_dir: RunDir, ranks: Ranks, images: ImageSet) -> Config:
    """Write the reordered network to the run, unless it is there, and return the configuration with its drop order.

    All ranks call this. Rank 0 works, so the result does not depend on the number of ranks.

    Raises:
        UserError: The network does not exist, or it is not the largest network of the space.
    """
    with Watchdog(run_dir.life, "train-supernet", ranks, config.run.timeout):
        watchdog.at(watchdog.WAITING if not ranks.is_main else "loading the pretrained network")
        order = comm.from_main(partial(_prepare, config, run_dir, ranks, images))
    config = ordered(config, order)
    if ranks.is_main:
        write_text(run_dir.config, framed(dump(with_absolute_paths(config))))
    return config


def make_init(supernet: Supernet, run_dir: RunDir) -> Callable[[], str]:
    """Return a function that fills the supernet with the network in the run, and returns where it comes from."""

    def init() -> str:
        fill(supernet, read_model(run_dir.pretrained).state_dict())
        return f"the weights of {read_facts(run_dir.pretrained)[SOURCE]}"

    return init


def _prepare(config: Config, run_dir: RunDir, ranks: Ranks, images: ImageSet) -> tuple[int, ...] | None:
    """Return the order of dropped layers; None: from the last one."""
    known = read_scores(run_dir.importance) if run_dir.importance.is_file() else None
    if any(run_dir.supernet.checkpoints.glob("step-*")):  # resumed: the network is in the run
        return _order(config, known)
    found = load(config, images)
    chosen = _choose(images, config.supernet.importance_images, config.run.seed)
    if not len(chosen):
        run_dir.importance.unlink(missing_ok=True)  # of an earlier start
        _write(config, run_dir, found, None)
        return config.space.elastic.drop_order
    if known is not None and (known.weights, known.data) != (found.digest, fingerprint(chosen)):
        known = None
    if known is None and config.space.elastic.drop_order in measured_orders(run_dir):
        config = ordered(config, None)  # of another network or of other images
    scores = known or _measure(config, found, chosen, ranks)
    if known is None:
        write_scores(run_dir.importance, scores)
        plot_scores(scores, run_dir.importance.with_suffix(".png"))
    _write(config, run_dir, found, scores)
    return _order(config, scores)


def _order(config: Config, scores: Scores | None) -> tuple[int, ...] | None:
    given = config.space.elastic.drop_order
    return drop_order(scores) if given is None and scores is not None else given


def load(config: Config, images: ImageSet) -> Pretrained:
    """Load the network of ``supernet.init`` and check that it is the largest network of the space.

    Raises:
        UserError: It is not, has other classes, or does not exist.
    """
    init = config.supernet.init
    found = _timm_network(config) if init.startswith(TIMM) else _own_network(config, images)
    check_largest(config, found.model.spec)
    _check_normalization(config, found)
    if str(found.facts.get("classifier", "")).startswith("new"):
        raise UserError(f"supernet.init: {init}: its classifier is not trained; fine-tune it first (retrain.init)")
    return found


def _own_network(config: Config, images: ImageSet) -> Pretrained:
    folder = find_model(config.supernet.init, "supernet.init")
    model, preprocess = read_model(folder), read_preprocess(folder)
    check_classes(folder, "supernet.init", preprocess, images)
    facts, digest = read_facts(folder), weights_digest(folder) or ""
    order = read_order(folder, model.spec)
    return Pretrained(model, preprocess, facts, read_license(folder), digest, order, str(folder))


def _timm_network(config: Config) -> Pretrained:
    from vitas_ds.export.from_timm import import_timm  # timm is optional

    init, weights = config.supernet.init, Path(str(config.supernet.weights))
    found = import_timm(init.removeprefix(TIMM), weights)
    digest = file_digest(weights)
    return Pretrained(found.model, found.preprocess, found.facts, found.license, digest, None, init)


def _check_normalization(config: Config, found: Pretrained) -> None:
    data, theirs = config.data, found.preprocess
    for name in ("mean", "std"):
        ours, wanted = getattr(data, name), getattr(theirs, name)
        if ours != wanted:
            raise UserError(
                f"supernet.init: {found.where} was trained with {name} {list(wanted)}, data.{name} is {list(ours)}; "
                f"set data.{name}='{list(wanted)}'"
            )
    if data.resize != theirs.resize:
        warnings.warn(
            f"supernet.init: {found.where} was evaluated with resize {theirs.resize}, data.resize is {data.resize}",
            stacklevel=2,
        )


def _choose(images: ImageSet, count: int, seed: int) -> ImageSet:
    """Return random images in the order of the set."""
    return images.subset(np.sort(np.random.default_rng([DRAW, seed]).permutation(len(images))[:count]))


def _measure(config: Config, found: Pretrained, images: ImageSet, ranks: Ranks) -> Scores:
    alone, model = Ranks(0, 1, 0, ranks.device), found.model.to(ranks.device)
    data = config.data.model_copy(update={"resize": found.preprocess.resize})
    batches = eval_batches(images, data, config.space.image_size, BATCH_SIZE, alone)
    start = printed = time.monotonic()

    def progress(done: int) -> None:
        nonlocal printed
        watchdog.at(f"measuring the importance of units, image {done}")
        now = time.monotonic()
        if now - printed > PROGRESS_SECONDS:
            printed = now
            left = (now - start) / done * (len(images) - done)
            print(f"train-supernet: importance: {done} of {len(images)} images, {left:.0f} s left", flush=True)

    scores = measure(model, batches, "labels", found.digest, fingerprint(images), progress)
    model.zero_grad(set_to_none=True)
    found.model.cpu()
    print(f"train-supernet: importance of {len(images)} images in {time.monotonic() - start:.0f} s", flush=True)
    return scores


def _write(config: Config, run_dir: RunDir, found: Pretrained, scores: Scores | None) -> None:
    """Write the reordered network. Its order starts from that of the original network."""
    model, order = found.model, found.order
    how = "in their order"
    if scores is not None:
        new = by_importance(scores, model.spec)
        if config.supernet.sharing == "bilateral":
            new = centered(new, config.space)
        reorder(model, new)
        order = new if order is None else new.after(order)
        how = f"sorted by importance on {scores.images} images"
    facts = found.facts | {SOURCE: f"{found.where} (SHA-256 {found.digest[:12]}), units {how}"}
    with atomic_folder(run_dir.pretrained) as aside:
        write_model_files(model, aside, found.preprocess, facts)
        if order is not None:
            write_order(aside, order)
        write_text(aside / "README.md", model_card(model.spec, "pretrained", facts, license=found.license))
