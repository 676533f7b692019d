"""Read and describe the result of the check of a supernet. Importing this module does not import torch."""

from __future__ import annotations

import math
from typing import Any

from vitas_ds.errors import UserError
from vitas_ds.run.files import read_json
from vitas_ds.run.run_dir import RunDir
from vitas_ds.search.trials.agreement import Estimate

COLUMNS = ("network", "score", "stderr", "accuracy", "macs", "depth", "patch_size", "embed_dim")


def read_check(run: RunDir) -> dict[str, Any]:
    """Return ``check.json``; empty without one.

    Raises:
        UserError: The file has another content.
    """
    data = read_json(run.check, {})
    if data and not _valid(data):
        raise UserError(f"{run.check}: not a result of the check; remove it, the search writes it again")
    return data


def _valid(data: dict[str, Any]) -> bool:
    """Return whether ``check.json`` has the fields and the numbers that the search writes."""
    nets, settings = data.get("nets"), data.get("settings")
    taus = data.get("within_patch_size"), data.get("corrected")
    return (
        isinstance(nets, list) and len(nets) >= 2 and all(map(_is_net, nets))
        and _is_whole(data.get("steps")) and isinstance(settings, dict)
        and _is_estimate(data.get("tau")) and all(tau is None or _is_estimate(tau) for tau in taus)
    )  # fmt: skip


def _is_net(row: Any) -> bool:
    shares = ("score", "accuracy")
    return (
        isinstance(row, dict) and all(_is_number(row.get(name)) and 0 <= row[name] <= 1 for name in shares)
        and _is_number(row.get("seconds")) and (row.get("stderr") is None or _is_number(row["stderr"]))
        and all(map(_is_whole, (row.get("macs"), row.get("steps")))) and isinstance(row.get("spec"), dict)
    )  # fmt: skip


def _is_estimate(value: Any) -> bool:
    names = ("value", "low", "high")
    return isinstance(value, dict) and value.keys() == set(names) and all(_is_number(value[name]) for name in names)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def describe(result: dict[str, Any], correct: bool) -> str:
    """Return the result as one clause; ``correct``: the search corrects its scores."""
    if len({row["accuracy"] for row in result["nets"]}) == 1:
        return (
            f"all {len(result['nets'])} networks have the same accuracy after {result['steps']:,} steps alone, so "
            "their ranking is unknown; increase search.check.steps"
        )
    found, within = Estimate(**result["tau"]), result["within_patch_size"]
    text = (
        f"Kendall's tau {found} between the scores by the supernet and the accuracy of {len(result['nets'])} networks "
        f"after {result['steps']:,} steps alone" + (f", {Estimate(**within)} within a patch size" if within else "")
    )
    text = text if found.low > 0 else f"{text}; the interval includes 0: the ranking may be no better than chance"
    return f"{text}; {_correction(result, found, correct)}" if result.get("corrected") else text


def _correction(result: dict[str, Any], found: Estimate, correct: bool) -> str:
    """Return how well corrected scores rank the networks, and what that suggests."""
    better = Estimate(**result["corrected"])
    if correct:
        advice = "" if better.value > found.value else ", no better: use more networks, or search.check.correct=false"
        return f"corrected scores, which the search uses: {better}{advice}"
    return f"corrected scores: {better}" + (" (search.check.correct=true)" if better.value > found.value else "")


def headline(result: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers for ``summary.json``."""
    numbers = {name: result[name] for name in ("tau", "within_patch_size", "steps")}
    return numbers | {"corrected": result.get("corrected"), "nets": len(result["nets"])}


def table_rows(result: dict[str, Any]) -> list[list[Any]]:
    """Return a row of ``COLUMNS`` per network."""
    rows = []
    for i, row in enumerate(result["nets"], 1):
        values = row | row["spec"] | {"network": i, "depth": len(row["spec"]["layers"])}
        rows.append([values[name] for name in COLUMNS])
    return rows
