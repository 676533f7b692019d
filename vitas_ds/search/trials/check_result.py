"""Read and describe the result of the check of a supernet. Importing this module does not import torch."""

from __future__ import annotations

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
    if data and not (data.keys() >= {"tau", "within_patch_size", "steps", "nets", "settings"} and _rows(data["nets"])):
        raise UserError(f"{run.check}: not a result of the check; remove it, the search writes it again")
    return data


def _rows(nets: Any) -> bool:
    """Return whether a value is a list of networks with score, accuracy and spec."""

    def valid(row: Any) -> bool:
        numbers = [row.get("score"), row.get("accuracy")] if isinstance(row, dict) else [None]
        return all(isinstance(x, float) for x in numbers) and isinstance(row.get("spec"), dict)

    return isinstance(nets, list) and all(map(valid, nets))


def describe(result: dict[str, Any]) -> str:
    """Return the result as one clause."""
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
    return f"{text}; {_correction(result, found)}" if result.get("corrected") else text


def _correction(result: dict[str, Any], found: Estimate) -> str:
    """Return how well corrected scores rank the networks, and what that suggests."""
    better = Estimate(**result["corrected"])
    if result.get("correct"):
        advice = "" if better.value > found.value else ", no better: use more networks, or search.check.correct=false"
        return f"corrected scores, which the search uses: {better}{advice}"
    return f"corrected scores: {better}" + (" (search.check.correct=true)" if better.value > found.value else "")


def headline(result: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers for ``summary.json``."""
    numbers = {name: result[name] for name in ("tau", "within_patch_size", "steps")}
    more = {name: result.get(name) for name in ("corrected", "correct")}
    return numbers | more | {"nets": len(result["nets"])}


def table_rows(result: dict[str, Any]) -> list[list[Any]]:
    """Return a row of ``COLUMNS`` per network."""
    rows = []
    for i, row in enumerate(result["nets"], 1):
        values = row | row["spec"] | {"network": i, "depth": len(row["spec"]["layers"])}
        rows.append([values[name] for name in COLUMNS])
    return rows
