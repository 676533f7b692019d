"""Stage search: evolution inside a budget, nets scored with the supernet's weights on images held out of training."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from vitas_ds import checkpoint, distributed
from vitas_ds.config import Config
from vitas_ds.data.cache import decoded
from vitas_ds.data.loader import normalise
from vitas_ds.data.sources import ImageSet, fingerprint, hold_out, read_folder
from vitas_ds.distributed import Ranks
from vitas_ds.errors import UserError
from vitas_ds.models.supernet import Supernet
from vitas_ds.precision import DTYPES
from vitas_ds.run_dir import RunDir, open_run, read_summary, update_summary
from vitas_ds.search.baselines import baselines
from vitas_ds.search.evolution import Progress, Result, ranked, rescore, search
from vitas_ds.search.figures import COLUMNS, draw, rows
from vitas_ds.search.ledger import Entry, open_ledger
from vitas_ds.search.race import Race
from vitas_ds.search.results import write_baselines, write_results
from vitas_ds.search.scoring import Scorer, balanced_order, looks
from vitas_ds.tracking import Tracker, open_tracker


def run(config: Config) -> None:
    """Search the space of ``config`` inside ``config.search``'s budget; writes ledger, front and best net."""
    ranks = distributed.init(config.run.device, config.run.timeout)
    folder = open_run(config, ranks.is_main, stage="search", world_size=ranks.world_size)
    key = {"generations": config.search.generations, "top_k": config.search.top_k}
    before = read_summary(folder).get("search", {})
    if folder.best.exists() and all(before.get(name) == value for name, value in key.items()):
        if ranks.is_main:
            print(f"search: done already, {before['scored']} nets scored, best {before['best']['score']:.4f}")
        return
    supernet, digest = load_supernet(config, folder)
    everything = read_folder(config.data.train, config.data.exclude)
    _, images = hold_out(everything, config.data.search_per_class, config.run.seed)
    total = config.search.population * config.search.generations
    with open_tracker(config, folder, "search", ranks.is_main, total=total) as tracker:
        numbers = _search(config, folder, ranks, supernet, digest, images, tracker)
        tracker.summary(numbers)
        tracker.artifact("best-spec", "spec", folder.best)
    if ranks.is_main:
        update_summary(folder, "search", key | numbers)


def load_supernet(config: Config, folder: RunDir) -> tuple[Supernet, str]:
    """The trained supernet and the SHA-256 of its weights: the run's own, or what ``search.checkpoint`` names.

    That is a consolidated file or a checkpoint folder of any ZeRO stage and any number of ranks; no engine is needed.

    Raises:
        UserError: it is missing, not whole, or of another space.
    """
    path = Path(config.search.checkpoint or folder.supernet_weights)
    if not path.exists():
        hint = "search.checkpoint" if config.search.checkpoint else "run the stage train-supernet first"
        raise UserError(f"{path}: no trained supernet; {hint}")
    weights = checkpoint.consolidate(path, ema=config.supernet.ema > 0) if path.is_dir() else load_file(path)
    supernet = Supernet(config.space, config.supernet.sharing, config.supernet.private_attention)
    wanted = {name: tuple(value.shape) for name, value in supernet.state_dict().items()}
    for name in sorted({*wanted, *weights}):
        found = tuple(weights[name].shape) if name in weights else None
        if found != wanted.get(name):
            raise UserError(
                f"{path}: a supernet of another space: {name} is {found or 'absent'} there, "
                f"{wanted.get(name) or 'absent'} in this one"
            )
    supernet.load_state_dict(weights)
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].contiguous().numpy().tobytes())
    return supernet.eval(), digest.hexdigest()


def _search(
    config: Config, folder: RunDir, ranks: Ranks, supernet: Supernet, digest: str, images: ImageSet, tracker: Tracker
) -> dict[str, Any]:
    cfg, seed = config.search, config.run.seed
    pixels = decoded(images, config.data, config.space.image_size, ranks, folder.search)
    used, full = (_scorer(config, ranks, supernet, images, pixels, count) for count in (cfg.images, 0))
    scoring = _scoring(config, digest, images)
    ledger = open_ledger(folder.ledger, scoring, Path(cfg.reuse) if cfg.reuse else None, ranks.is_main)
    races = folder.search / "races.jsonl"
    race = Race(looks(used), cfg.racing, open_ledger(races, scoring, None, ranks.is_main)) if cfg.racing else None
    tracker.say(f"search: {cfg.algorithm}, {cfg.generations} generations of {cfg.population}, "
                f"{used.images} search images")  # fmt: skip

    def tell(progress: Progress) -> None:
        _tell(tracker, progress)
        if ranks.is_main:
            for name, path in draw(progress, config.space, cfg.population, folder.search / "figures").items():
                tracker.image(f"search/{name}", path)

    result = search(config.space, cfg, used, ledger, seed, tell, used.images, race)
    tracker.table("search/candidates", COLUMNS, rows(result.entries))
    top = rescore(ranked(result.entries)[: cfg.top_k], full, ledger, len(images))
    if cfg.baselines:
        own = open_ledger(folder.search / "baselines.jsonl", scoring, folder.ledger, ranks.is_main)
        found = baselines(config.space, cfg, used, own, seed, used.images)
        if ranks.is_main:
            write_baselines(folder.search, found)
    if ranks.is_main:
        write_results(folder.search, result, top)
    tracker.say(f"search: {len(result.entries)} nets, best {top[0].score.value:.4f} of {top[0].costs['macs']:,} MACs")
    return _numbers(result, top)


def _scorer(config: Config, ranks: Ranks, supernet: Supernet, images: ImageSet, pixels: Tensor, count: int) -> Scorer:
    """Scores nets on ``count`` of the search images (0: all)."""
    precision = config.engine.precision
    return Scorer(
        supernet.to(ranks.device), pixels, torch.from_numpy(images.labels), lambda x: normalise(x, config.data),
        balanced_order(images.labels, count, config.run.seed), ranks, config.data.eval_batch_size,
        config.search.side_rule, config.search.ranks_per_candidate,
        autocast=None if precision == "fp32" else DTYPES[precision],
    )  # fmt: skip


def _scoring(config: Config, digest: str, images: ImageSet) -> dict[str, str | int]:
    """What a score depends on beside the net and the number of images."""
    return {
        "supernet": digest, "search images": fingerprint(images), "search.side_rule": config.search.side_rule,
        "engine.precision": config.engine.precision, "data.eval_batch_size": config.data.eval_batch_size,
    }  # fmt: skip


def _tell(tracker: Tracker, progress: Progress) -> None:
    """A progress record after each generation; its step is the number of candidates so far."""
    scores = np.array([entry.score.value for entry in progress.entries])
    newest = scores[-(progress.scored + progress.reused) :]
    tracker.log(len(scores), {
        "generation": progress.generation, "best": scores.max(), "mean": newest.mean(),
        "reused": progress.reused, "scored": progress.scored, "saved": progress.saved, "seconds": progress.seconds,
    })  # fmt: skip
    tracker.histogram("scores", newest)


def _numbers(result: Result, top: list[Entry]) -> dict[str, Any]:
    best = top[0]
    return {
        "best": {**best.costs, "score": best.score.value, "stderr": best.score.stderr, "spec": best.spec.to_dict()},
        "scored": len(result.entries),
        "front": len(result.pareto),
    }
