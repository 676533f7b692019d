"""Write the results of a search (``best.json``, ``pareto.json``, ``baselines.json``) and select a subnet from them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vitas_ds.arch.spec import SubnetSpec, spec_from_dict
from vitas_ds.config import Search
from vitas_ds.config.limits import format_number
from vitas_ds.errors import UserError
from vitas_ds.errors.reading import open_binary
from vitas_ds.run.files import read_json, to_json, write_json
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.summary import read_summary
from vitas_ds.search.feasible.budget import format_cost
from vitas_ds.search.ranking import Result
from vitas_ds.search.scoring.candidate import Candidate
from vitas_ds.search.scoring.ledger_reader import iter_ledger
from vitas_ds.search.selector import Bound, ListEntry, parse_choice
from vitas_ds.search.trials.correction import Correction, corrected
from vitas_ds.search.trials.finalists import FinalistsResult

MAX_ENTRIES = 8  # of a list in an error line


def write_results(
    run: RunDir,
    result: Result,
    top: list[Candidate],
    latencies: dict[str, dict[str, Any]] | None = None,
    dropped: Sequence[Candidate] = (),
    finalists: FinalistsResult | None = None,
    within: Sequence[tuple[str, list[Candidate]]] = (),
    correction: Correction | None = None,
) -> None:
    """Write ``pareto.json`` (the front, cheapest first) and ``best.json`` (the first candidate of ``top``).

    ``best.json`` has further fields: ``top`` lists the best candidates with their ranks, ``searched_on`` is the number
    of images per score, and ``dropped`` lists the candidates that measured outside the budget. The entry of a trained
    candidate has ``finalist``: its accuracy, with standard error and steps.

    Args:
        run: The run.
        result: Result of the search.
        top: The best candidates, scored again on all search images, best first: in the order of their training, if
            there are finalists.
        latencies: Measured latencies by subnet, as fields in addition to ``predicted_latency``, see ``confirm.py``.
        dropped: Candidates that measured outside the budget.
        finalists: Result of the trainings.
        within: Of several budgets, each one and its best candidates. They become the list ``budgets``; ``top`` has the
            best candidate of each.
        correction: Correction of the scores; becomes ``correction``, with which readers correct those of the ledger.
    """

    def row(candidate: Candidate) -> dict[str, Any]:
        measured = (latencies or {}).get(candidate.spec.key(), {})
        trained = {} if finalists is None else finalists.entry(candidate.spec)
        return candidate.to_dict() | measured | trained

    write_json(run.pareto, [row(candidate) | {"index": i} for i, candidate in enumerate(result.pareto)])
    search_scores = {candidate.spec: candidate.value for candidate in result.candidates}

    def with_ranks(candidates: list[Candidate]) -> list[dict[str, Any]]:
        return [row(c) | {"rank": rank, "search_score": search_scores[c.spec]} for rank, c in enumerate(candidates, 1)]

    rows = with_ranks(top)
    lists: dict[str, Any] = {"top": rows, "dropped": [row(candidate) for candidate in dropped]}
    if within:
        lists["budgets"] = [{"budget": limit, "top": with_ranks(best)} for limit, best in within]
    if correction is not None:
        lists["correction"] = correction.to_dict()
    write_json(run.best, rows[0] | {"searched_on": result.best.images} | lists)


def forget_baselines(run: RunDir, search: Search, correction: Correction | None) -> None:
    """Remove ``baselines.json`` if the last search had other generations or budgets, or corrected scores otherwise."""
    before, summary = read_json(run.best, {}).get("correction"), read_summary(run).get("search", {})
    budgets = [row["budget"] for row in summary.get("budgets") or ()]
    as_long = summary.get("generations") in (None, search.generations) and budgets == list(search.budgets)
    if not as_long or before != (None if correction is None else correction.to_dict()):
        run.baselines.unlink(missing_ok=True)


def write_baselines(run: RunDir, baselines: dict[str, list[Candidate]]) -> None:
    """Write ``baselines.json``: the number of candidates and the best one of each baseline."""
    rows = {name: {"scored": len(found), "best": found[0].to_dict()} for name, found in baselines.items()}
    write_json(run.baselines, rows)


def select(run: RunDir, choice: str) -> SubnetSpec:
    """Return the subnet named by a choice.

    Args:
        run: The run of the search.
        choice: ``search:best`` (``search:best[2]`` is the second best), ``search:pareto[3]`` (counted from 0, cheapest
            first), ``search:budget[0]`` (the best one within the first of ``search.budgets``), or the candidate with
            the best score within a bound: ``search:macs<1.3G``, ``search:latency<5m``
            (predicted latency in milliseconds).

    Raises:
        UserError: The search has no results yet, the choice is invalid, or no candidate matches it.
    """
    parsed = parse_choice(choice)
    return _select_below(run, choice, parsed) if isinstance(parsed, Bound) else _select_entry(run, choice, parsed)


def _select_entry(run: RunDir, choice: str, entry: ListEntry) -> SubnetSpec:
    path = run.pareto if entry.name == "pareto" else run.best
    data = _read(path)
    rows, first = (data["top"], 1) if entry.name == "best" else (data, 0)
    if entry.name == "budget":
        rows = [one["top"][0] for one in data.get("budgets", ())]
        if not rows:
            raise UserError(f"retrain.spec: {choice}: this search had no search.budgets; use search:best")
    if not first <= entry.index < first + len(rows):
        raise UserError(f"retrain.spec: {choice}: {path} has {_entries(entry.name, rows, first)}")
    found = rows[entry.index - first]["spec"]
    _check_scored(run, path, found)
    return spec_from_dict(found, f"{path}: {choice}")


def _check_scored(run: RunDir, path: Path, spec: dict[str, Any]) -> None:
    """Check that a subnet in a file of results is in the ledger, if there is one.

    Raises:
        UserError: It is not: the file was changed, or is that of another run.
    """
    scored = f'"spec": {to_json(spec)}'.encode()
    with suppress(FileNotFoundError), open_binary(run.ledger) as lines:
        if not any(scored in line for line in lines):
            raise UserError(f"{path}: names a network that is not in {run.ledger.name}; restore it, or search again")


def _entries(name: str, rows: list[dict[str, Any]], first: int) -> str:
    """Return one line of the entries with MACs (in millions) and score, without the middle of a long list."""
    texts = [f"[{i}] {row['macs'] / 1e6:.4g}M {row['score']:.1%}" for i, row in enumerate(rows, first)]
    half = MAX_ENTRIES // 2
    shown = texts if len(texts) <= MAX_ENTRIES else [*texts[:half], "...", *texts[-half:]]
    return f"{name}[{first}] to {name}[{first + len(rows) - 1}]: {', '.join(shown)}"


def _select_below(run: RunDir, choice: str, bound: Bound) -> SubnetSpec:
    """Return the best candidate below the bound, among those scored on as many images as the search used."""
    name = bound.cost
    best = _read(run.best)
    dropped = [row["spec"] for row in best.get("dropped", ())]
    candidates = [
        c
        for c in corrected(run, iter_ledger(run.ledger))
        if c.images == best["searched_on"] and name in c.costs and c.spec.to_dict() not in dropped
    ]
    if not candidates:
        raise UserError(f"retrain.spec: {choice}: the search did not compute {name}")
    compare: Callable[[Any, Any], bool] = operator.le if bound.inclusive else operator.lt
    matches = [c for c in candidates if compare(c.costs[name], bound.limit)]
    if not matches:
        smallest = _format(name, min(c.costs[name] for c in candidates))
        limit = f"{'at most' if bound.inclusive else 'below'} {_format(name, bound.limit)}"
        which = "fastest" if name == "latency" else "cheapest"
        raise UserError(f"retrain.spec: {choice}: no candidate with {name} {limit}; the {which} has {smallest}")
    return min(matches, key=lambda c: (-c.value, c.costs[name])).spec


def _format(name: str, value: float) -> str:
    """Format a cost as in a choice, such as 802.3K; the latency in seconds."""
    return format_cost(name, value) if name == "latency" else format_number(value)


def _read(path: Path) -> Any:
    data = read_json(path, None)
    if data is None:
        raise UserError(f"retrain.spec: {path} does not exist: the search of this run has not finished; run it first")
    return data
