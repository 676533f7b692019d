"""Tables of results, computed from the record alone."""
# n nets, R seeds

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.fidelity import alone, picks, plots, searched
from tests.benchmarks.fidelity.agreement import agreement, rho
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.tables import table
from tests.benchmarks.fidelity.truth import GROUPS, WITHIN, Truth, base_of, reference, scores_of, stacked, supernets

NOTES = """tau is Kendall's tau between the scores and the mean over the trainings of each subnet. Brackets hold 95 %
bootstrap intervals over subnets and seeds of the supernets. Rows marked * have one seed, and their intervals exclude
the variation between seeds. *Within a patch size* uses all subnets but only pairs with the same patch size. The rules
were chosen after seeing the truth."""


def headline(row: dict[str, Any]) -> str:
    """Return the numbers of a row of the record for a line of progress."""
    numbers = [f"{key} {row[key]:.4g}" for key in ("accuracy", "loss", "steps") if key in row]
    return ", ".join([*numbers, f"{row['seconds']} s"])


def write(record: Record, folder: Path) -> Path:
    """Write ``results.md`` and the plots into a folder. Returns the path of ``results.md``."""
    truth = Truth(record)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.md"
    path.write_text(text(record))
    plots.write(record, truth, folder)
    return path


def text(record: Record) -> str:
    """Return the text of ``results.md``."""
    truth = Truth(record)
    others = len(supernets(record)) - 1
    parts = [
        "# Results\nComputed from record.jsonl by `python -m tests.benchmarks.fidelity`." + _older(record),
        "## Subnets trained alone\n" + alone.summary(truth) + "\n\n" + table(alone.limits(truth)),
        "## Is the truth trained long enough?\n" + alone.settled(record, truth),
        f"## Rules without a supernet\n{NOTES}\n\n" + table(alone.rules(truth)),
        "## Supernets\nScored by the mean accuracy of the sides on 1,000 images held out of train. "
        f"{others} are compared with\n*{base_of(record)}*: "
        f"by chance, about {0.05 * others:.1f} of these 95 % intervals exclude 0.\n\n"
        + table(_supernets(record, truth)),
        "## The loss as the truth\nThe negative loss on the same images replaces the accuracy of a subnet. "
        "Every image contributes to it.\n\n" + table(_by_loss(record)),
        f"## Regret of a pick\n{picks.NOTES}\n\n" + table(picks.table(record, truth)),
        "## Ways of scoring the same supernets\n" + table(_ways(record, truth)),
        "## Searches\n" + table(searched.table(record)),
        "## Where\n" + table(_where(record)),
    ]
    return "\n\n".join(parts) + "\n"


def _older(record: Record) -> str:
    count = sum("study" not in row for row in record.rows.values())
    words = f"{count} of its {len(record.rows)} rows are older than the current version of the study"
    return f"\n{words}, and its code cannot reproduce them." if count else ""


def _supernets(record: Record, truth: Truth) -> list[dict[str, Any]]:
    rows, base = [], base_of(record)
    for name in supernets(record):
        group = [row for row in record.of("supernet") if row["what"] == name]
        scores, less = scores_of(record, truth, name), reference(record, truth, name)
        steps, seconds = (f"{np.mean([row[key] for row in group]):.0f}" for key in ("steps", "training_seconds"))
        cells: dict[str, Any] = {"supernet": name + " *" * (len(group) == 1), "steps": steps, "seconds": seconds}
        if any("positions" in row for row in record.of("supernet")):
            cells["steps that each position trains in"] = ", ".join(map(str, group[0]["positions"]))
        cells["accuracy"] = f"{stacked(scores).mean():.3f}"
        cells["tau, all, each seed"] = ", ".join(
            f"{truth.tau(GROUPS[0], row[None]).value:.2f}" for row in scores.values()
        )
        cells |= {f"tau, {group}": truth.tau(group, stacked(scores)) for group in GROUPS}
        cells["rho, all"] = agreement(rho, stacked(scores), truth.mean_n)
        for group in (GROUPS[0], WITHIN):
            cells[f"tau, {group}, less {base}'s"] = "" if name == base else truth.more(group, scores, less)
        rows.append(cells)
    return sorted(rows, key=lambda row: -row["tau, all"].value)


def _by_loss(record: Record) -> list[dict[str, Any]]:
    """Return the agreement of trainings, rules and supernets with the loss of the subnets."""
    truth, rows = Truth(record, "loss"), list[dict[str, Any]]()
    for row in [*alone.limits(truth), *alone.rules(truth)]:
        (_, what), *taus = row.items()
        rows.append({"what": what} | dict(taus))
    for name in supernets(record):
        scores = stacked(scores_of(record, truth, name))
        rows.append({"what": f"supernet: {name}"} | {f"tau, {group}": truth.tau(group, scores) for group in GROUPS})
    return rows


def _ways(record: Record, truth: Truth) -> list[dict[str, Any]]:
    """Return the rows of the supernets that were scored in the most ways."""
    most = max(len(row["scores"]) for row in record.of("supernet"))
    rows = []
    for name in supernets(record):
        ways = next(row["scores"] for row in record.of("supernet") if row["what"] == name)
        less = scores_of(record, truth, name)
        for way in ways if len(ways) == most else ():
            scores = scores_of(record, truth, name, way)
            taus = {f"tau, {group}": truth.tau(group, stacked(scores)) for group in GROUPS}
            differs = "" if way == "accuracy" else truth.more("all", scores, less)
            rows.append({"supernet": name, "score": way} | taus | {"tau, all, less accuracy's": differs})
    return rows


def _where(record: Record) -> list[dict[str, Any]]:
    rows = dict[tuple[str, ...], dict[str, Any]]()
    for row in record.rows.values():
        place = {key: row.get(key, "unknown") for key in ("machine", "git", "torch", "study")}
        known = rows.setdefault(tuple(place.values()), place | {"rows": 0, "seconds": 0})
        known["rows"] += 1
        known["seconds"] += round(row["seconds"])
    return list(rows.values())
