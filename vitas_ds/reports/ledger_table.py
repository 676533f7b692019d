"""The table of candidates on a page. Its script sorts and filters it; without the script, the first rows are there.

The data are compact: numbers by column, and each layer as an index into the list of different layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from vitas_ds.arch.spec import LayerSpec, SubnetSpec, spec_from_dict
from vitas_ds.config import Search
from vitas_ds.reports.candidates import Candidates
from vitas_ds.reports.search_section import shown_costs, value_of
from vitas_ds.run.files import read_json
from vitas_ds.run.run_dir import RunDir
from vitas_ds.search.scoring.candidate import Candidate

STATIC = 20  # rows without the script
DROPPED = "dropped: too slow or too fast"  # measured outside the budget, see search/confirm.py
DIGITS = 6  # of a number
IN_COLUMNS = ("patch_size", "embed_dim")  # fields of a spec; the candidates of a search share the others


@dataclass(frozen=True)
class Column:
    """A column: its heading, how to show its numbers (percent, short, whole, number, text), and its values."""

    name: str
    kind: str
    value: Callable[[Candidate], Any]


def section(run: RunDir, search: Search, candidates: Candidates) -> dict[str, Any]:
    """Return header, first rows, data for the script, and a note for the template; empty without candidates."""
    rows = candidates.best
    if not rows:
        return {"rows": [], "header": (), "data": {}, "note": ""}
    columns = columns_of(search, candidates, names_of(run))
    layers: dict[LayerSpec, int] = {}
    data: dict[str, Any] = {
        "columns": [[column.name, column.kind] for column in columns],
        "values": [[_short(column.value(c)) for c in rows] for column in columns],
        "nets": [[layers.setdefault(layer, len(layers)) for layer in c.spec.active] for c in rows],
    }
    common = replace(rows[0].spec, layers=tuple(layers)).to_dict()
    data |= {"layers": common.pop("layers"), "fields": {k: v for k, v in common.items() if k not in IN_COLUMNS}}
    first = [tuple(text(column, c) for column in columns) for c in rows[:STATIC]]
    return {"rows": first, "header": [c.name for c in columns], "data": data, "note": _note(candidates)}


def columns_of(search: Search, candidates: Candidates, names: dict[SubnetSpec, str]) -> list[Column]:
    """Return the columns of a search. Latencies are there if it measured or predicted any."""
    place = {c.spec: i for i, c in enumerate(candidates.best, 1)}
    corrected = any(c.supernet_score is not None for c in candidates.best)
    score = "corrected score" if corrected else "score"
    columns = [Column("rank", "whole", lambda c: place[c.spec]), Column(score, "percent", lambda c: c.value)]
    if any(c.stderr is not None for c in candidates.best):
        columns.append(Column("± std. error", "percent", lambda c: c.stderr))
    if corrected:
        columns.append(Column("by the supernet", "percent", lambda c: c.supernet_score))
    columns += [Column("MACs", "short", lambda c: c.costs["macs"]),
                Column("parameters", "short", lambda c: c.costs["params"])]  # fmt: skip
    shown = shown_costs(search)
    if "vitas_flops" in shown:
        columns.append(Column("ViTAS FLOPs", "short", lambda c: c.costs["vitas_flops"]))
    if "activations" in shown:
        columns.append(Column("activation bytes", "short", lambda c: c.costs["activations"]))
    if any("latency" in c.costs for c in candidates.best):
        columns.append(Column("predicted ms", "number", lambda c: value_of(c, "latency")))
    if candidates.measured:
        columns.append(Column("measured ms", "number", lambda c: _measured(candidates, c)))
    columns += [
        Column("patch size", "whole", lambda c: c.spec.patch_size),
        Column("embedding", "whole", lambda c: c.spec.embed_dim), Column("layers", "whole", lambda c: c.spec.depth),
        Column("generation", "whole", lambda c: c.generation),
        Column("search:", "text", lambda c: names.get(c.spec, "")),
    ]  # fmt: skip
    return columns


def _measured(candidates: Candidates, candidate: Candidate) -> float | None:
    row = candidates.measured.get(candidate.spec)
    return None if row is None else 1e3 * row["latency"]


def names_of(run: RunDir) -> dict[SubnetSpec, str]:
    """Return the names of the candidates in ``best.json`` and on the front, as in ``retrain.spec=search:best[1]``."""
    names: dict[SubnetSpec, str] = {}
    results, front = read_json(run.best, {}), read_json(run.pareto, [])
    budgets = [entry["top"][0] for entry in results.get("budgets", ())]
    for kind, entries, first in (("best", results.get("top", ()), 1), ("budget", budgets, 0), ("pareto", front, 0)):
        file = run.pareto if kind == "pareto" else run.best
        for i, row in enumerate(entries, first):
            spec, name = spec_from_dict(row["spec"], str(file)), f"{kind}[{i}]"
            names[spec] = f"{names[spec]}, {name}" if spec in names else name
    dropped = (spec_from_dict(row["spec"], str(run.best)) for row in results.get("dropped", ()))
    return names | dict.fromkeys(dropped, DROPPED)


def text(column: Column, candidate: Candidate) -> str:
    """Format a value as the script does."""
    value = column.value(candidate)
    if value is None or column.kind == "text":
        return value or ""
    if column.kind == "percent":
        return f"{value:.2%}"
    return f"{value:.4g}" if column.kind == "number" else f"{value:,}"


def _short(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _note(candidates: Candidates) -> str:
    shown = len(candidates.best)
    if shown == candidates.count:
        return f"All {shown:,} candidates."
    return f"The best {shown:,} of {candidates.count:,} candidates; ledger.jsonl has all."
