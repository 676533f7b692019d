"""The search on a page: scored candidates, progress, surviving choices of the space, baselines."""

from __future__ import annotations

from typing import Any

from vitas_ds.config import Config, Search
from vitas_ds.reports.candidates import Candidates
from vitas_ds.reports.svg import Axis, Limit, Series, bars, chart, short
from vitas_ds.run.files import read_json
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.summary import read_summary
from vitas_ds.search.feasible.budget import PS_PER_SECOND
from vitas_ds.search.scoring.candidate import Candidate

Rows = list[dict[str, Any]]
SEEN, SCORE = Axis("candidates seen", whole=True), Axis("score on the search images", percent=True)
CORRECTED = Axis("corrected score: predicted accuracy, trained alone", percent=True)
EITHER = Axis("score, corrected in a part of the runs", percent=True)
VOLUME = Axis("share of the box of scores and costs")
MACS = Axis("MACs per image")
AXES = {
    "macs": MACS, "vitas_flops": Axis("ViTAS FLOPs per image"), "params": Axis("parameters"),
    "activations": Axis("activation memory of an image [bytes]"), "latency": Axis("latency of a batch [ms]"),
}  # fmt: skip
NAMES = {"vitas_flops": "ViTAS FLOPs", "params": "parameters", "activations": "memory", "latency": "latency"}
Budget = dict[str, tuple[float, float]]
"""Smallest and largest value of each limited cost, in the units of ``AXES``."""
PS_PER_MS = PS_PER_SECOND / 1000
MEASURED = 5  # color
NEAR = 1.5  # a limit farther from all candidates would shrink them


def section(run: RunDir, config: Config, metrics: Rows, candidates: Candidates) -> dict[str, Any]:
    """Return the charts, the marginals and the rows of the baselines for the template."""
    costs = [candidates_chart(candidates, config.search, name) for name in shown_costs(config.search)]
    return {
        "charts": [*costs, progress_chart(metrics, score_axis(candidates.shown)), hypervolume_chart(metrics)],
        "marginals": marginals(candidates),
        "baselines": baselines(run, candidates),
        "budgets": budgets(run),
    }


def values_of(metrics: Rows, stage: str, name: str) -> tuple[list[float], list[float]]:
    """Return steps and values of one metric of a stage, without the records that do not have it."""
    rows = [row for row in metrics if row["stage"] == stage and row.get(name) is not None]
    return [row["step"] for row in rows], [row[name] for row in rows]


def progress_chart(metrics: Rows, axis: Axis = SCORE) -> str:
    """Draw the best and the mean score over the candidates seen."""
    rows = [row for row in metrics if row["stage"] == "search" and row.get("best") is not None]
    series: list[Series] = []
    for index in sorted({row.get("budget", 0) for row in rows}):
        own, first = [row for row in rows if row.get("budget", 0) == index], not series
        for name, key, color in (("best so far", "best", 1), ("mean of the generation", "mean", 4)):
            x, y = values_of(own, "search", key)
            series.append(Series(name if first else "", x, y, color, dots=True))
    return chart("Search progress", series, SEEN, axis)


def hypervolume_chart(metrics: Rows) -> str:
    """Draw the hypervolume dominated by the front."""
    series = [Series("hypervolume", *values_of(metrics, "search", "hypervolume"), 2, dots=True)]
    return chart("Hypervolume of the front", series, SEEN, VOLUME)


def shown_costs(search: Search) -> list[str]:
    """Return the costs to draw the candidates over: MACs, those with a budget, and the objectives."""
    named = {"macs", *search.objectives}.union(*budgets_of(search))
    return [name for name in AXES if name in named]


def budgets_of(search: Search) -> list[Budget]:
    """Return the budget of a search, or each of its ``budgets``."""
    return [_budget_of(one) for one in search.each_budget()]


def _budget_of(search: Search) -> Budget:
    found = {name: pair for name, pair in search.budget.items() if name in AXES}
    if search.seconds is not None:
        found["latency"] = 1e3 * search.seconds[0], 1e3 * search.seconds[1]
    return found


def candidates_chart(candidates: Candidates, search: Search, cost: str = "macs") -> str:
    """Draw the scores over a cost; mark the front, the chosen candidate, and the budget."""
    found, first = [c for c in candidates.sample if cost in c.costs], candidates.first
    is_front = (search.objectives or ("macs",))[0] == cost
    series = [
        scatter("first generation", [c for c in found if c.generation == first], 4, cost=cost),
        scatter("later generations", [c for c in found if c.generation > first], 1, cost=cost),
        *([measured_latencies(candidates)] if cost == "latency" else []),
        scatter("front", candidates.front, 2, line=is_front, cost=cost),
        scatter("chosen", candidates.chosen, 3, ring=True, cost=cost),
    ]
    what = "Every scored candidate"
    if len(candidates.sample) < candidates.count:
        what = f"{len(candidates.sample):,} of {candidates.count:,} scored candidates, and the front"
    if cost != "macs":
        what += f", by {NAMES[cost]}"
    return chart(what, series, AXES[cost], score_axis(candidates.shown), limits(search, cost, candidates.shown))


def score_axis(candidates: list[Candidate]) -> Axis:
    """Return the axis of the scores, which may be corrected, in all runs or in a part of them."""
    kinds = {c.supernet_score is not None for c in candidates}
    return EITHER if len(kinds) == 2 else CORRECTED if True in kinds else SCORE


def limits(search: Search, cost: str, candidates: list[Candidate], color: int = 6) -> list[Limit]:
    """Return the limits of a cost near the candidates."""
    values = [value_of(c, cost) for c in candidates if cost in c.costs]
    ends = sorted({end for budget in budgets_of(search) for end in budget.get(cost, ())})
    near = [end for end in ends if values and min(values) / NEAR <= end <= max(values) * NEAR]
    unit = " ms" if cost == "latency" else f" {AXES[cost].name.partition(' per')[0]}"
    return [Limit(end, f"budget: {short(end)}{unit}", color, "budget" * (i == 0)) for i, end in enumerate(near)]


def value_of(candidate: Candidate, cost: str) -> float:
    """Return a cost in the unit of its axis."""
    return candidate.costs[cost] / PS_PER_MS if cost == "latency" else candidate.costs[cost]


def measured_latencies(candidates: Candidates) -> Series:
    """Return the scores over the measured latencies, in ms; other points have the predicted ones."""
    found = [(c, candidates.measured[c.spec]) for c in _unique(candidates) if c.spec in candidates.measured]
    points = [(1e3 * row["latency"], c.value, tip(c, f"measured {1e3 * row['latency']:.4g} ms")) for c, row in found]
    xs, ys, tips = zip(*points, strict=True) if points else ((), (), ())
    return Series("measured", xs, ys, MEASURED, line=False, dots=True, tips=tips)


def _unique(candidates: Candidates) -> list[Candidate]:
    return list({c.spec: c for c in (*candidates.front, *candidates.best)}.values())


def scatter(
    name: str, candidates: list[Candidate], color: int, line: bool = False, ring: bool = False, cost: str = "macs"
) -> Series:
    """Return scores over a cost; the tooltip of a point describes the candidate. A line has standard errors."""
    shown = [c for c in candidates if cost in c.costs]
    errors = [c.stderr for c in shown] if line else None
    xs, ys = [value_of(c, cost) for c in shown], [c.value for c in shown]
    return Series(name, xs, ys, color, line, dots=True, tips=[tip(c) for c in shown], ring=ring, errors=errors)


def tip(candidate: Candidate, *more: str) -> str:
    """Describe a candidate."""
    c = candidate
    latency = [f"predicted {value_of(c, 'latency'):.4g} ms"] if "latency" in c.costs and not more else []
    parts = [
        with_error(c.value, c.stderr), f"{short(c.costs['macs'])} MACs", f"{short(c.costs['params'])} parameters",
        *latency, *more, f"{c.spec.depth} layers", f"embedding {c.spec.embed_dim}", f"patch {c.spec.patch_size}",
        f"generation {c.generation}",
    ]  # fmt: skip
    return ", ".join(parts)


def with_error(value: float, stderr: float | None) -> str:
    """Format a score with its standard error, if it is known."""
    return f"{value:.1%}" + ("" if stderr is None else f" ± {stderr:.1%}")


def marginals(candidates: Candidates) -> list[str]:
    """Draw for each choice of the space the share of its values, in the first generation and at the end."""
    if not candidates.count:
        return []
    return [
        bars(
            name[0].upper() + name[1:],
            values,
            [("first generation", first.tolist(), 4), ("best at the end", last.tolist(), 1)],
        )
        for name, (values, first, last) in candidates.shares.items()
        if len(values) > 1
    ]


def budgets(run: RunDir) -> list[tuple[str, ...]]:
    """Return the best network of each of ``search.budgets`` as rows; empty if there is only one budget."""
    rows = []
    for i, entry in enumerate(read_json(run.best, {}).get("budgets", ())):
        best, trained = entry["top"][0], RunDir(run.path.with_name(f"{run.name}-budget{i}"))
        top1 = read_summary(trained).get("evaluate", {}).get("top1")
        finalist = best.get("finalist")
        accuracies = [f"{best['score']:.2%}", f"{finalist['accuracy']:.2%}" if finalist else ""]
        accuracies.append("" if top1 is None else f"{top1:.2%}")
        costs = [short(best[name]) for name in ("macs", "params")]
        rows.append((entry["budget"], *costs, *accuracies, trained.name if trained.config.is_file() else ""))
    return rows


def baselines(run: RunDir, candidates: Candidates) -> list[tuple[str, ...]]:
    """Return the search and its baselines (random search, uniform sampling) as rows; empty if there are none."""
    if not run.baselines.exists() or not run.best.exists():
        return []
    best = read_json(run.best, {})
    rows = [("this search", candidates.count, best["search_score"], best)]
    found = read_json(run.baselines, {})
    rows += [(name, row["scored"], row["best"]["score"], row["best"]) for name, row in found.items()]
    return [
        (name, f"{scored:,}", f"{score:.2%}" + _plus(best), short(best["macs"]), short(best["params"]))
        for name, scored, score, best in rows
    ]


def _plus(row: dict[str, Any]) -> str:
    return "" if row.get("stderr") is None else f" ± {row['stderr']:.2%}"
