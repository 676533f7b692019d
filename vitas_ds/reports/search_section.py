"""The search on a page: scored candidates, progress, surviving choices of the space, baselines."""

from __future__ import annotations

from typing import Any

from vitas_ds.arch.spec import spec_from_dict
from vitas_ds.config import Config
from vitas_ds.reports.svg import Axis, Series, bars, chart, short
from vitas_ds.run.files import read_json
from vitas_ds.run.run_dir import RunDir, read_summary
from vitas_ds.search.scoring.candidate import Candidate
from vitas_ds.search.scoring.ledger_reader import read_ledger
from vitas_ds.search.survivors import survivor_shares

Rows = list[dict[str, Any]]
SEEN, SCORE, MACS = Axis("candidates seen"), Axis("score", percent=True), Axis("MACs")


def section(run: RunDir, config: Config, metrics: Rows) -> dict[str, Any]:
    """Return the charts, the marginals and the rows of the baselines for the template."""
    return {
        "charts": [candidates_chart(run, config), progress_chart(metrics), hypervolume_chart(metrics)],
        "marginals": marginals(run, config),
        "baselines": baselines(run),
        "budgets": budgets(run),
    }


def values_of(metrics: Rows, stage: str, name: str) -> tuple[list[float], list[float]]:
    """Return steps and values of one metric of a stage, without the records that do not have it."""
    rows = [row for row in metrics if row["stage"] == stage and row.get(name) is not None]
    return [row["step"] for row in rows], [row[name] for row in rows]


def progress_chart(metrics: Rows) -> str:
    """Draw the best and the mean score over the candidates seen."""
    rows = [row for row in metrics if row["stage"] == "search" and row.get("best") is not None]
    series: list[Series] = []
    for index in sorted({row.get("budget", 0) for row in rows}):
        own, first = [row for row in rows if row.get("budget", 0) == index], not series
        for name, key, color in (("best so far", "best", 1), ("mean of the generation", "mean", 2)):
            x, y = values_of(own, "search", key)
            series.append(Series(name if first else "", x, y, color, dots=True))
    return chart("Search progress", series, SEEN, SCORE)


def hypervolume_chart(metrics: Rows) -> str:
    """Draw the hypervolume dominated by the front."""
    series = [Series("hypervolume", *values_of(metrics, "search", "hypervolume"), 3, dots=True)]
    return chart("Hypervolume of the front", series, SEEN, Axis("hypervolume"))


def own_candidates(run: RunDir) -> list[Candidate]:
    """Return the candidates of the search itself, without their scores on all search images at the end."""
    images = read_json(run.best, {})["searched_on"]
    return [candidate for candidate in read_ledger(run.ledger) if candidate.images == images]


def front_of(run: RunDir, candidates: list[Candidate]) -> list[Candidate]:
    """Return the candidates on the front, cheapest first."""
    front = [spec_from_dict(row["spec"]) for row in read_json(run.pareto, [])]
    return sorted((c for c in candidates if c.spec in front), key=lambda c: c.costs["macs"])


def candidates_chart(run: RunDir, config: Config) -> str:
    """Draw the score of every candidate over its MACs; mark the front, the best candidate, and the budget."""
    if not run.best.exists():
        return ""
    candidates = own_candidates(run)
    first = min((c.generation for c in candidates), default=1)
    best = spec_from_dict(read_json(run.best, {})["spec"])
    series = [
        scatter("first generation", [c for c in candidates if c.generation == first], 4),
        scatter("later generations", [c for c in candidates if c.generation > first], 1),
        scatter("front", front_of(run, candidates), 2, line=True),
        scatter("chosen", [c for c in candidates if c.spec == best], 3, ring=True),
        *budget_lines(config, candidates),
    ]
    return chart("Every scored candidate", series, MACS, Axis("score on the search images", percent=True))


def budget_lines(config: Config, candidates: list[Candidate]) -> list[Series]:
    """Return a vertical line at each limit of ``search.macs`` that is near the candidates."""
    macs, scores = [c.costs["macs"] for c in candidates], [c.value for c in candidates]
    low, high = min(macs) / 1.5, max(macs) * 1.5
    pairs = [one.macs or () for one in config.search.each_budget()]
    limits = [limit for pair in pairs for limit in pair if low <= limit <= high]
    names = ["budget", *[""] * len(limits)]  # one entry in the legend
    ends = [min(scores), max(scores)]
    return [
        Series(name, [limit, limit], ends, 6, tips=[f"budget: {short(limit)} MACs"] * 2)
        for name, limit in zip(names, limits, strict=False)
    ]


def scatter(name: str, candidates: list[Candidate], color: int, line: bool = False, ring: bool = False) -> Series:
    """Return scores over MACs; the tooltip of a point describes the candidate."""
    tips = [
        f"{c.value:.1%}{_error(c)}, {short(c.costs['macs'])} MACs, {short(c.costs['params'])} parameters, "
        f"{c.spec.depth} layers, embedding {c.spec.embed_dim}, patch {c.spec.patch_size}, generation {c.generation}"
        for c in candidates
    ]
    macs, scores = [c.costs["macs"] for c in candidates], [c.value for c in candidates]
    return Series(name, macs, scores, color, line, dots=True, tips=tips, ring=ring)


def _error(candidate: Candidate) -> str:
    """Return the standard error of a score, if it is known."""
    return "" if candidate.stderr is None else f" ± {candidate.stderr:.1%}"


def marginals(run: RunDir, config: Config) -> list[str]:
    """Draw for each choice of the space the share of its values, in the first generation and at the end."""
    if not run.best.exists():
        return []
    shares = survivor_shares(config.space, own_candidates(run), config.search.population)
    return [
        bars(name[0].upper() + name[1:], values, [("first generation", share[0], 4), ("best at the end", share[-1], 1)])
        for name, (values, share) in shares.items()
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


def baselines(run: RunDir) -> list[tuple[str, ...]]:
    """Return the search and its baselines (random search, uniform sampling) as rows; empty if there are none."""
    if not run.baselines.exists() or not run.best.exists():
        return []
    best = read_json(run.best, {})
    rows = [("this search", len(own_candidates(run)), best["search_score"], best)]
    found = read_json(run.baselines, {})
    rows += [(name, row["scored"], row["best"]["score"], row["best"]) for name, row in found.items()]
    return [
        (name, f"{scored:,}", f"{score:.2%}", short(best["macs"]), short(best["params"]))
        for name, scored, score, best in rows
    ]
