"""Tables of a search in W&B: all candidates, the front, and the best candidate of each budget."""

from __future__ import annotations

from typing import Any

from vitas_ds.arch.spec import spec_from_dict
from vitas_ds.search.scoring.candidate import Candidate

COLUMNS = (
    "generation", "score", "stderr", "images", "macs", "vitas_flops", "params", "activations", "predicted_latency",
    "depth", "patch_size", "embed_dim",
)  # fmt: skip

FRONT_COLUMNS = ("index", *COLUMNS)

BUDGET_COLUMNS = ("budget", "score", "stderr", "accuracy", "macs", "vitas_flops", "params", "predicted_latency")


def table_rows(candidates: list[Candidate]) -> list[list[Any]]:
    """Return one table row of ``COLUMNS`` per candidate."""
    rows = []
    for candidate in candidates:
        spec = {name: getattr(candidate.spec, name) for name in ("depth", "patch_size", "embed_dim")}
        values = candidate.to_dict() | spec
        rows.append([values.get(name) for name in COLUMNS])
    return rows


def front_rows(entries: list[dict[str, Any]]) -> list[list[Any]]:
    """Return one table row of ``FRONT_COLUMNS`` per entry of ``pareto.json``."""
    rows = []
    for entry in entries:
        spec = spec_from_dict(entry["spec"], "pareto.json")
        values = entry | {name: getattr(spec, name) for name in ("depth", "patch_size", "embed_dim")}
        rows.append([values.get(name) for name in FRONT_COLUMNS])
    return rows


def budget_rows(entries: list[dict[str, Any]]) -> list[list[Any]]:
    """Return one table row of ``BUDGET_COLUMNS`` per entry of ``search.budgets`` in ``summary.json``."""
    rows = []
    for entry in entries:
        trained = {"accuracy": (entry.get("finalist") or {}).get("accuracy")}
        rows.append([(entry | trained).get(name) for name in BUDGET_COLUMNS])
    return rows
