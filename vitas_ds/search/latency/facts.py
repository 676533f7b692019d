"""Describe the latency of a network of a finished search. Importing this module does not import torch."""

from __future__ import annotations

from typing import Any

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.run.files import read_json
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.summary import read_summary
from vitas_ds.search.latency.lines import Latency, Setting, describe_setting


def latency_facts(run: RunDir, spec: SubnetSpec) -> dict[str, str]:
    """Return the latencies of a network as rows of a table, from ``best.json`` and ``pareto.json``.

    Empty if the search had no latency, or has not chosen this network.
    """
    setting = read_summary(run).get("search", {}).get("latency")
    rows = [*read_json(run.best, {}).get("top", ()), *read_json(run.pareto, [])]
    row = next((row for row in rows if row["spec"] == spec.to_dict()), None)
    return {} if setting is None or row is None else describe_row(row, setting)


def describe_row(row: dict[str, Any], setting: Setting) -> dict[str, str]:
    """Return the latencies of an entry of ``best.json`` by their names, one for each batch size."""
    size = setting["batch_size"]
    where = describe_setting({name: value for name, value in setting.items() if name != "batch_size"})
    if "latency" not in row:
        return {name(size): f"{Latency(row['predicted_latency']).describe()}, predicted for {where}"}
    latencies = {size: Latency(row["latency"], row.get("latency_spread"))}
    latencies |= {int(size): Latency(**fields) for size, fields in row.get("latency_also", {}).items()}
    return {name(size): f"{latency.describe()}, {where}" for size, latency in latencies.items()}


def name(batch_size: int) -> str:
    """Return the name of a latency."""
    return f"latency of {batch_size} image{'s' * (batch_size != 1)}"
