"""Tables of the subnets trained alone, and of rules that need no supernet."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks.fidelity import jobs
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.tables import table
from tests.benchmarks.fidelity.truth import GROUPS, Truth


def summary(truth: Truth) -> str:
    """Return a list with the number of subnets, their accuracy and its noise."""
    lines = []
    for group in ("all", "equal"):
        at = truth.at(group)
        accuracy, macs = truth.mean_n[at], truth.macs_n[at] / 1e6
        line = f"{group}, {len(at)} subnets of {macs.min():.2f}M to {macs.max():.2f}M MACs: "
        line += f"accuracy {accuracy.min():.4f} to {accuracy.max():.4f}, standard deviation "
        line += f"between subnets {accuracy.std(ddof=1):.4f}"
        if len(truth.seeds_Rn) > 1:
            noise = (truth.seeds_Rn[0, at] - truth.seeds_Rn[1, at]).std(ddof=1) / 2**0.5
            line += f", between seeds of a subnet {noise:.4f}"
        lines.append(f"- {line}")
    for patch in np.unique(truth.patch_n):
        of = truth.mean_n[truth.patch_n == patch]
        lines.append(f"- patch {patch}, {len(of)} subnets: mean accuracy {of.mean():.4f}")
    return "\n".join(lines)


def limits(truth: Truth) -> list[dict[str, Any]]:
    """Return the upper bounds of tau that the noise of the truth allows. Empty with one seed."""
    if len(truth.seeds_Rn) == 1:
        return []
    once = {f"tau, {group}": truth.seed_tau(group) for group in GROUPS}
    oracle = {f"tau, {group}": truth.oracle(group) for group in GROUPS}
    return [
        {"truth": "one training with another, each with its noise"} | once,
        {"truth": f"a perfect oracle with the mean of {len(truth.seeds_Rn)} trainings, under a normal model"} | oracle,
    ]


def settled(record: Record, truth: Truth) -> str:
    """Return a table that checks whether twice the steps change a subnet more than another seed does."""
    of: dict[str, list[dict[str, Any]]] = {}
    for row in record.of("longer"):
        of.setdefault(row["job"].partition(jobs.LONGER)[0], []).append(row)
    if not of:
        return "Not measured: no subnet was trained twice as long."
    rows, gains = [], dict[int, list[float]]()
    for name, group in of.items():
        i, twice = truth.names.index(name), np.mean([row["accuracy"] for row in group])
        gain = twice - truth.mean_n[i]
        gains.setdefault(truth.patch_n[i], []).append(gain)
        rows.append({
            "net": name, "patch": truth.patch_n[i], "steps": group[0]["steps"] // 2,
            "accuracy": f"{truth.mean_n[i]:.4f}", "of twice the steps": f"{twice:.4f}", "more": f"{gain:+.4f}",
        })  # fmt: skip
    noise = truth.seeds_Rn.var(0, ddof=1).mean() ** 0.5 if len(truth.seeds_Rn) > 1 else np.nan
    enough = all(np.mean(of_patch) < noise for of_patch in gains.values())
    verdict = (
        f"Criterion: for each patch size, twice the steps gain less on average than {noise:.4f}, the standard\n"
        f"deviation between seeds of a subnet. They are{'' if enough else ' **not**'} trained long enough.\n\n"
    )
    return verdict + table(rows)


def rules(truth: Truth) -> list[dict[str, Any]]:
    """Return the agreement of simple rules with the truth."""
    return [
        {"rule": name} | {f"tau, {group}": truth.tau(group, row[None]) for group in GROUPS}
        for name, row in truth.rules().items()
    ]
