"""A search from end to end: what it needs is opened, it runs, its finds are measured and scored again, and written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitas_ds.config import Config
from vitas_ds.data.sources import ImageSet, fingerprint
from vitas_ds.distributed.comm import Ranks
from vitas_ds.engine.precision import DTYPES
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.tracker import Tracker
from vitas_ds.search import algorithms
from vitas_ds.search.baselines import baselines
from vitas_ds.search.feasible import budget as budgets
from vitas_ds.search.finalists import Confirmed, confirm, rescore
from vitas_ds.search.latency.calibration import Timing, open_timing
from vitas_ds.search.loop import Result, ranked, search, whole
from vitas_ds.search.monitor import Watch, counted
from vitas_ds.search.results import write_baselines, write_results
from vitas_ds.search.scoring import racing
from vitas_ds.search.scoring.ledger import Entry, Ledger, open_ledger
from vitas_ds.search.scoring.scorer import Scorer, balanced_order, looks


@dataclass(frozen=True)
class Session:
    """All that a search works with, on one rank."""

    config: Config
    folder: RunDir
    ranks: Ranks
    tracker: Tracker
    scoring: dict[str, str | int]  # what a score depends on beside the net and the number of images
    used: Scorer  # on search.images images
    full: Scorer  # on all search images
    ledger: Ledger
    race: racing.Race | None
    timing: Timing | None

    @property
    def costs(self) -> budgets.Costs:
        """What nets are priced in."""
        return budgets.COSTS if self.timing is None else self.timing.costs


def open_session(
    config: Config,
    folder: RunDir,
    ranks: Ranks,
    tracker: Tracker,
    supernet: nn.Module,
    digest: str,
    images: ImageSet,
    pixels: Tensor,
    prepare: Callable[[Tensor], Tensor],
) -> Session:
    """Open the ledgers and the latencies.

    Args:
        supernet: see ``Scorer``; ``digest`` tells its weights from others.
        pixels: the search ``images``, decoded: uint8 [n, 3, H, W]. ``prepare`` makes of a batch what the net takes.

    Raises:
        UserError: a ledger is of another search, a budget cannot be met, or there are too few images.
    """
    cfg, precision = config.search, config.engine.precision

    def scorer(count: int) -> Scorer:
        order = balanced_order(images.labels, count, config.run.seed)
        return Scorer(
            supernet.to(ranks.device), pixels, torch.from_numpy(images.labels), prepare, order, ranks,
            min(config.data.eval_batch_size, -(-len(order) // racing.LOOKS)), cfg.side_rule, cfg.ranks_per_candidate,
            autocast=None if precision == "fp32" else DTYPES[precision],
        )  # fmt: skip

    scoring: dict[str, str | int] = {
        "supernet": digest, "search images": fingerprint(images), "search.side_rule": cfg.side_rule,
        "engine.precision": precision, "data.eval_batch_size": config.data.eval_batch_size,
    }  # fmt: skip
    used, timing = scorer(cfg.images), None
    if cfg.timed:
        timing = open_timing(config, folder, folder.search, ranks.device, budgets.of_config(cfg))
        tracker.say(timing.line())
    ledger = open_ledger(folder.ledger, scoring, Path(cfg.reuse) if cfg.reuse else None, ranks.is_main)
    rules = None
    if cfg.racing:
        rules = racing.Race(
            looks(used), cfg.racing, open_ledger(folder.search / "races.jsonl", scoring, None, ranks.is_main)
        )
    return Session(config, folder, ranks, tracker, scoring, used, scorer(0), ledger, rules, timing)


def run_search(s: Session) -> dict[str, Any]:
    """Search, confirm, score the best again, score the baselines, write it all; returns the headline numbers."""
    config, cfg, seed = s.config, s.config.search, s.config.run.seed
    pictures = s.folder.search / "figures" if s.ranks.is_main else None
    watch = Watch(s.tracker, config.space, cfg, s.used.images, pictures)
    s.tracker.say(f"search: {cfg.algorithm}, {cfg.generations} generations of {cfg.population}, "
                  f"{s.used.images} search images")  # fmt: skip
    race = s.race and replace(s.race, parts=[(n, watch.timed(score, n)) for n, score in s.race.parts])
    scorer = watch.timed(s.used, s.used.images)
    found = search(config.space, cfg, scorer, s.ledger, seed, watch.tell, s.used.images, race, s.costs)
    watch.finish()
    confirmed = _confirmed(s, found)
    top = rescore(ranked(whole(confirmed.result.entries))[: cfg.top_k], s.full, s.ledger, s.full.images)
    if cfg.baselines:
        _score_baselines(s)
    if s.ranks.is_main:
        write_results(s.folder.search, confirmed.result, top, confirmed.seconds, confirmed.dropped)
    numbers = _numbers(s, found, confirmed, top[0]) | watch.numbers()
    s.tracker.say(f"search: {len(found.entries)} nets, best {top[0].score.value:.4f} of {top[0].costs['macs']:,} MACs")
    return numbers


def _confirmed(s: Session, found: Result) -> Confirmed:
    """The result without what measures outside the budget, a line each."""
    cfg = s.config.search
    if s.timing is None:
        return Confirmed(found, {}, [])
    budget = budgets.of_config(cfg, s.costs)
    confirmed = confirm(found, algorithms.objectives(cfg), cfg.top_k, s.timing, budget)
    for entry in confirmed.dropped:
        predicted = budgets.amount("latency", entry.costs["latency"])
        s.tracker.say(
            f"search: dropped a net of score {entry.score.value:.4f}: predicted {predicted}, "
            f"measured {confirmed.seconds[entry.spec.key()]:.4g} s"
        )
    return confirmed


def _score_baselines(s: Session) -> None:
    cfg = s.config.search
    s.tracker.say(f"search: baselines, {cfg.population * cfg.generations} random nets, {cfg.population} uniform ones")
    own = open_ledger(s.folder.search / "baselines.jsonl", s.scoring, s.folder.ledger, s.ranks.is_main)
    score = counted(s.used, s.tracker, "baselines", cfg.population * (cfg.generations + 1))
    found = baselines(s.config.space, cfg, score, own, s.config.run.seed, s.used.images, s.costs)
    if s.ranks.is_main:
        write_baselines(s.folder.search, found)


def _numbers(s: Session, found: Result, confirmed: Confirmed, best: Entry) -> dict[str, Any]:
    score = {"score": best.score.value, "stderr": best.score.stderr, "spec": best.spec.to_dict()}
    measured = confirmed.seconds.get(best.spec.key())
    latency = {} if measured is None else {"latency": measured}
    numbers: dict[str, Any] = {
        "best": {**best.told_costs(), **latency, **score},
        "scored": len(found.entries),
        "front": len(confirmed.result.pareto),
    }
    if s.timing is not None:
        numbers["latency"] = s.timing.numbers() | {"dropped": len(confirmed.dropped)}
    if s.race is not None and s.config.search.algorithm != "random":
        numbers["racing"] = racing.report(s.race, found.entries)
        s.tracker.say(racing.line(numbers["racing"]))
    return numbers
