"""The cost of a run on a page: images, MACs and hours of each stage, counted from the files of the run.

MACs are those of the forward pass times images, three times as many in a training (``PASSES``). Teachers and the
accuracies measured during a training are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from vitas_ds.arch import genome
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import read_spec
from vitas_ds.config import Config
from vitas_ds.models.channels import SIDES
from vitas_ds.reports.candidates import Candidates
from vitas_ds.reports.svg import short
from vitas_ds.run.metrics import clock
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.summary import read_summary
from vitas_ds.search.scoring.ledger_reader import iter_ledger
from vitas_ds.search.trials.check_result import read_check
from vitas_ds.search.trials.plan import PASSES
from vitas_ds.search.trials.rows import curves_of, read_rows

Rows = list[dict[str, Any]]
HEADER = ("", "images", "MACs", "time", "hours", "share of the MACs")


@dataclass(frozen=True)
class Cost:
    """The cost of a stage or of a part of it.

    Attributes:
        name: Name of the stage or part.
        stage: The stage.
        images: Images that passed through a network, each time one did.
        macs: MACs of all passes.
        seconds: Duration; None if unknown.
        about: Whether the MACs are estimated from a sample.
        trainings: Trainings whose durations ``seconds`` adds up. Groups of ranks may run them at the same time.
    """

    name: str
    stage: str
    images: int
    macs: float
    seconds: float | None
    about: bool = False
    trainings: int = 1


def section(run: RunDir, config: Config, metrics: Rows, starts: Rows, candidates: Candidates) -> dict[str, Any]:
    """Return header, rows and a note for the template; empty before a stage has a result."""
    costs = [cost for cost in costs_of(run, config, metrics, candidates) if cost.images]
    if not costs:
        return {"header": HEADER, "rows": [], "note": ""}
    total = sum(cost.macs for cost in costs)
    rows = [_row(cost, starts, total) for cost in costs]
    if len(costs) > 1:
        rows.append(_total(costs, starts))
    return {"header": HEADER, "rows": rows, "note": _note(costs)}


def costs_of(run: RunDir, config: Config, metrics: Rows, candidates: Candidates) -> Iterator[Cost]:
    """Yield the costs of the finished work of the run."""
    summary = read_summary(run)
    yield _supernet(config, metrics, summary.get("train-supernet", {}))
    yield _check(run, config)
    sides = len(SIDES[config.supernet.sharing])
    yield Cost("search", "search", candidates.images, sides * candidates.macs, candidates.seconds or None)
    yield _baselines(run, sides)
    yield _finalists(run, config, summary.get("search", {}).get("finalists") or {})
    yield _retraining(run, config, metrics, summary.get("retrain", {}))
    yield _evaluation(run, summary.get("evaluate", {}))


def _supernet(config: Config, metrics: Rows, summary: dict[str, Any]) -> Cost:
    """Return the cost of the supernet, with the mean MACs of the recorded subnets."""
    rows = _steps(metrics, "train-supernet")
    steps, seconds = _progress(rows, summary)
    macs = [row["net_macs"] for row in rows if row.get("net_macs") is not None]
    images, passes = steps * config.supernet.batch_size, PASSES * len(SIDES[config.supernet.sharing])
    mean = sum(macs) / len(macs) if macs else 0.0
    if config.supernet.sampling == "sandwich":  # the record has the largest subnet only
        smallest = spec_macs(genome.decode(config.space, genome.smallest(config.space)))
        mean += smallest + config.supernet.random_subnets * (mean + smallest) / 2
    return Cost("train-supernet", "train-supernet", images, passes * images * mean, seconds, about=True)


def _baselines(run: RunDir, sides: int) -> Cost:
    """Return the cost of the scores of the baselines, without those known from the ledger of the search."""
    images, macs, seconds = 0, 0, 0.0
    for candidate in iter_ledger(run.baseline_scores, missing_ok=True):
        if candidate.seconds:
            images += candidate.images
            macs += candidate.images * candidate.costs["macs"]
            seconds += candidate.seconds
    return Cost("search: baselines", "search", images, sides * macs, seconds or None)


def _finalists(run: RunDir, config: Config, summary: dict[str, Any]) -> Cost:
    last = [curve[-1] for curve in curves_of(read_rows(run)).values()]
    batch = config.retrain.batch_size
    images = sum(row["step"] * batch for row in last)
    macs = PASSES * sum(row["step"] * batch * row["macs"] for row in last)
    return Cost("search: finalists", "search", images, macs, summary.get("seconds"), trainings=len(last))


def _check(run: RunDir, config: Config) -> Cost:
    rows, batch = read_check(run).get("nets", []), config.retrain.batch_size
    images = sum(row["steps"] * batch for row in rows)
    macs = PASSES * sum(row["steps"] * batch * row["macs"] for row in rows)
    seconds = sum(row["seconds"] for row in rows)
    return Cost("search: check of the supernet", "search", images, macs, seconds, trainings=len(rows))


def _retraining(run: RunDir, config: Config, metrics: Rows, summary: dict[str, Any]) -> Cost:
    steps, seconds = _progress(_steps(metrics, "retrain"), summary)
    macs = spec_macs(read_spec(run.retrain_spec)) if run.retrain_spec.exists() else 0
    images = steps * config.retrain.batch_size
    return Cost("retrain", "retrain", images, PASSES * images * macs, seconds)


def _evaluation(run: RunDir, summary: dict[str, Any]) -> Cost:
    """Return the cost of the evaluation. Older results do not have the MACs: of another network, they are unknown."""
    images, macs = summary.get("images", 0), summary.get("macs")
    if macs is None and summary.get("model", "retrain") == "retrain" and run.retrain_spec.exists():
        macs = spec_macs(read_spec(run.retrain_spec))
    return Cost("evaluate", "evaluate", images if macs else 0, images * (macs or 0), summary.get("seconds"))


def _steps(metrics: Rows, stage: str) -> Rows:
    return [row for row in metrics if row["stage"] == stage and not row.get("evaluation")]


def _progress(rows: Rows, summary: dict[str, Any]) -> tuple[int, float | None]:
    """Return steps and seconds of a training; of an unfinished one, from its records."""
    if "seconds" in summary:
        return summary["steps"], summary["seconds"]
    if not rows:
        return 0, None
    pace = [row["step_seconds"] for row in rows if row.get("step_seconds") is not None]
    last = rows[-1]["step"]
    return last, last * sum(pace) / len(pace) if pace else None


def _row(cost: Cost, starts: Rows, total: float) -> tuple[str, ...]:
    about = "about " if cost.about else ""
    hours = "" if cost.seconds is None else describe_hours(*hours_of(cost, starts))
    time = "" if cost.seconds is None else clock(duration(cost, starts))
    return cost.name, f"{cost.images:,}", f"{about}{short(cost.macs)}", time, hours, f"{cost.macs / (total or 1):.1%}"


def _total(costs: list[Cost], starts: Rows) -> tuple[str, ...]:
    known = [cost for cost in costs if cost.seconds is not None]
    hours: dict[str, float] = {}
    for cost in known:
        number, unit = hours_of(cost, starts)
        hours[unit] = hours.get(unit, 0.0) + number
    about = "about " if any(cost.about for cost in costs) else ""
    return (
        "total", f"{sum(cost.images for cost in costs):,}", f"{about}{short(sum(cost.macs for cost in costs))}",
        clock(sum(duration(cost, starts) for cost in known)),
        ", ".join(describe_hours(number, unit) for unit, number in hours.items()), "",
    )  # fmt: skip


def duration(cost: Cost, starts: Rows) -> float:
    """Return the seconds of a cost. The trainings of several networks run in as many groups of ranks as possible."""
    ranks = _last_start(cost, starts)["world_size"]
    groups = max(n for n in range(1, ranks + 1) if ranks % n == 0 and n <= max(cost.trainings, 1))
    return (cost.seconds or 0.0) / groups


def hours_of(cost: Cost, starts: Rows) -> tuple[float, str]:
    """Return the GPU hours or core hours of a cost: its duration times the GPUs, or the cores of its machines."""
    last, hours = _last_start(cost, starts), duration(cost, starts) / 3600
    ranks = last["world_size"]
    if last["machine"].get("gpu"):
        return hours * ranks, "GPU"
    machines = -(-ranks // (last.get("local_world_size") or ranks))
    return hours * (last["machine"].get("cores") or ranks) * machines, "core"


def _last_start(cost: Cost, starts: Rows) -> dict[str, Any]:
    own = [start for start in starts if start["stage"] == cost.stage]
    return (own or starts)[-1]


def describe_hours(number: float, unit: str) -> str:
    """Format hours: ``0.053 core hours``."""
    return f"{number:.2g} {unit} hours" if number < 10 else f"{number:,.0f} {unit} hours"


def _note(costs: Iterable[Cost]) -> str:
    """Compare the whole search with one retraining."""
    by_stage: dict[str, float] = {}
    for cost in costs:
        by_stage[cost.stage] = by_stage.get(cost.stage, 0.0) + cost.macs
    search = by_stage.get("train-supernet", 0.0) + by_stage.get("search", 0.0)
    if not (search and by_stage.get("retrain")):
        return ""
    return f"Supernet and search took {search / by_stage['retrain']:.2g} times the MACs of the retraining."
