"""What a search hands on: ``best.json`` and ``pareto.json``, and how a net is picked from them."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vitas_ds.arch.spec import SubnetSpec, spec_from_dict
from vitas_ds.errors import UserError
from vitas_ds.run.files import write_json
from vitas_ds.search.feasible.budget import amount
from vitas_ds.search.loop import Result
from vitas_ds.search.scoring.ledger import Entry, read_entries
from vitas_ds.search.selector import Bound, parse


def write_results(
    folder: Path,
    result: Result,
    top: list[Entry],
    seconds: dict[str, float] | None = None,
    dropped: Sequence[Entry] = (),
) -> None:
    """Write ``pareto.json`` (the front, cheapest first) and ``best.json``.

    ``best.json`` is the first of ``top``, the best few scored again on all search images, best first; under ``top`` it
    lists all of them with their ranks, under ``searched_on`` how many images the search itself scored on, and under
    ``dropped`` the nets that measured outside the budget. ``seconds`` are measured latencies by net: they stand as
    ``latency`` beside ``predicted_latency``.
    """

    def row(entry: Entry) -> dict[str, Any]:
        measured = (seconds or {}).get(entry.spec.key())
        return entry.to_dict() | ({} if measured is None else {"latency": measured})

    write_json(folder / "pareto.json", [row(entry) | {"index": i} for i, entry in enumerate(result.pareto)])
    searched = {entry.spec: entry for entry in result.entries}
    rows = [
        row(entry) | {"rank": rank, "search_score": searched[entry.spec].score.value}
        for rank, entry in enumerate(top, 1)
    ]
    lists = {"top": rows, "dropped": [row(entry) for entry in dropped]}
    write_json(folder / "best.json", rows[0] | {"searched_on": result.best.score.images} | lists)


def write_baselines(folder: Path, found: dict[str, list[Entry]]) -> None:
    """Write ``baselines.json``: of each baseline, how many nets were scored, and the best of them."""
    rows = {name: {"scored": len(entries), "best": entries[0].to_dict()} for name, entries in found.items()}
    write_json(folder / "baselines.json", rows)


def select(folder: Path, choice: str) -> SubnetSpec:
    """The net that a choice names: ``search:best`` (``search:best[2]``: the second best), ``search:pareto[3]`` (counted
    from 0, cheapest first), or the best-scored one within a bound: ``search:macs<1.3G``, ``search:latency<5m``
    (predicted milliseconds).

    Raises:
        UserError: the search has no results yet, the choice is none of these, or nothing fits it.
    """
    wanted = parse(choice)
    if isinstance(wanted, Bound):
        return _within(folder, choice, wanted)
    name, index = wanted.list, wanted.index
    path = folder / f"{name}.json"
    data = _read(path)
    rows, first = (data["top"], 1) if name == "best" else (data, 0)
    if not first <= index < first + len(rows):
        last = first + len(rows) - 1
        raise UserError(f"retrain.spec: {choice}: {path} has {name}[{first}] to {name}[{last}]")
    return spec_from_dict(rows[index - first]["spec"], f"{path}: {choice}")


def _within(folder: Path, choice: str, bound: Bound) -> SubnetSpec:
    """The best of the nets that the search scored on its own number of images and that cost less than the bound."""
    name = bound.cost
    best = _read(folder / "best.json")
    gone = [row["spec"] for row in best.get("dropped", ())]
    entries = [e for e in read_entries(folder / "ledger.jsonl") if e.score.images == best["searched_on"]]
    entries = [e for e in entries if name in e.costs and e.spec.to_dict() not in gone]
    if not entries:
        raise UserError(f"retrain.spec: {choice}: the search has no {name} of its candidates")
    compare: Callable[[Any, Any], bool] = operator.le if bound.included else operator.lt
    fits = [entry for entry in entries if compare(entry.costs[name], bound.limit)]
    if not fits:
        least = amount(name, min(entry.costs[name] for entry in entries))
        raise UserError(f"retrain.spec: {choice}: no candidate of the search fits; the least {name} is {least}")
    return min(fits, key=lambda entry: (-entry.score.value, entry.costs[name])).spec


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"retrain.spec: {path} is missing: the search of this run is not done") from None
    except ValueError as error:
        raise UserError(f"{path}: not a JSON file ({error})") from None
