"""Whether a search has ended with its present settings. Importing this module does not import torch."""

from __future__ import annotations

from typing import Any

from vitas_ds.config import Search


def has_ended(search: Search, summary: dict[str, Any]) -> bool:
    """Return whether the numbers of a search are those of its settings: generations, budgets and short trainings.

    Args:
        search: The settings.
        summary: Numbers of the stage in ``summary.json``; empty if it has never ended.
    """
    searched = [summary.get("generations"), summary.get("top_k")] == [search.generations, search.top_k]
    budgets = [row["budget"] for row in summary.get("budgets") or ()] == list(search.budgets)
    finalists, trained = search.finalists, summary.get("finalists") or {}
    ranked = _is_in(finalists.model_dump(), trained) if finalists.count else not trained
    checked = {"correct": False} | (summary.get("check") or {})
    return searched and budgets and ranked and (not search.check.nets or _is_in(search.check.model_dump(), checked))


def _is_in(part: dict[str, Any], whole: dict[str, Any]) -> bool:
    return part.items() <= whole.items()
