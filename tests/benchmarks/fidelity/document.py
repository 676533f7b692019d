"""The document of the results, computed from the record alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.benchmarks.fidelity import (
    aids,
    alone,
    comparison,
    corrections,
    early,
    longer,
    method_plot,
    picks,
    plots,
    ranking,
    regression,
    sharing,
)
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.scores import supernets
from tests.benchmarks.fidelity.tables import table
from tests.benchmarks.fidelity.truth import Truth

RULES = """The activation memory and the time of a training step, measured on one core, stand in for latency. A negative
tau means that the opposite is better."""


def write(record: Record, recipe: str, folder: Path) -> list[Path]:
    """Write ``results.md`` and the plots into a folder. Returns their paths."""
    truth = Truth(record)
    folder.mkdir(parents=True, exist_ok=True)
    names = plots.write(record, truth, folder)
    (folder / "results.md").write_text(text(record, recipe))
    return [folder / name for name in ("results.md", *names)]


def text(record: Record, recipe: str) -> str:
    """Return the text of ``results.md``."""
    truth, command = Truth(record), f"python -m tests.benchmarks.fidelity {recipe} report"
    parts = [
        f"# Results: {Path(recipe).stem}\nComputed from the record by `{command}`.",
        *_truth(record, truth),
        *(["## What does sharing cost?\n" + sharing.report(record)] if record.of("sharing") else []),
        *(_supernets(record, truth) if supernets(record) else []),
        *(
            [f"## Inherited weights and teachers\n{aids.NOTES}\n\n" + table(aids.table(record, truth))]
            if record.of("aids")
            else []
        ),
        *_searches(record),
        "## Where\n" + table(where(record)),
        "## Subnets\n" + table(alone.nets(truth)),
    ]
    return "\n\n".join(parts) + "\n"


def _truth(record: Record, truth: Truth) -> list[str]:
    """Return the sections on the subnets trained alone."""
    by_loss = list[dict[str, Any]]()
    for (_, what), *taus in (row.items() for row in _limits_and_rules(Truth(record, "loss"))):
        by_loss.append({"what": what} | dict(taus))
    figure = "![Two trainings of each subnet, and twice the steps](seeds.png)\n\n" if len(truth.seeds) > 1 else ""
    return [
        "## Subnets trained alone\n" + alone.summary(truth) + "\n\n" + table(alone.limits(truth)),
        f"## Are they trained long enough?\n{figure}" + longer.report(record, truth),
        "## Shorter trainings\nA part of a training, scored on the search images, against the end of another seed.\n\n"
        + table(early.table(record, truth)),
        f"## A regression on the genes\n{regression.NOTES}\n\n" + table(regression.table(record, truth)),
        "## Accuracy by gene\nSubnets of equal MACs; black: the mean of a choice.\n\n"
        "![Accuracy by patch size, layers, embed_dim and heads](genes.png)\n\n" + table(alone.by_gene(truth)),
        f"## Rules without a supernet\n{RULES}\n\n![Kendall's tau](agreement.png)\n\n" + table(alone.rules(truth)),
        "## The loss as the truth\nThe negative loss on the same images replaces the accuracy of a subnet. "
        "Every image contributes to it.\n\n" + table(by_loss),
    ]


def _limits_and_rules(truth: Truth) -> list[dict[str, Any]]:
    return [*alone.limits(truth), *alone.rules(truth)]


def _supernets(record: Record, truth: Truth) -> list[str]:
    """Return the sections on the supernets."""
    return [
        f"## Supernets\n{ranking.NOTES} {ranking.chance(record)}\n\n![Scores against accuracy](scatter.png)\n\n"
        + table(ranking.table(record, truth)),
        "## Ways of scoring\nMeans over all supernets with a score. The intervals resample subnets and supernets.\n\n"
        + table(ranking.by_way(record, truth))
        + "\n\nOf the supernet with the highest tau, and of its base:\n\n"
        + table(ranking.by_way_of(record, truth, ranking.best(record, truth))),
        *_corrected(record, truth),
        "## Do the scores favor a gene?\nMean of score minus truth, both standardized over the subnets of equal MACs, "
        "with its standard error.\n\n" + table(ranking.bias(record, truth, ranking.best(record, truth))),
        "## Supernets, with the loss as the truth\n" + table(ranking.by_loss(record, Truth(record, "loss"))),
        f"## Regret of a pick\n{picks.NOTES}\n\n" + table(picks.table(record, truth)),
    ]


def _corrected(record: Record, truth: Truth) -> list[str]:
    rows = corrections.table(record, truth)
    figure = "\n\n![How long to train, how many networks to train](method.png)" if method_plot.possible(record) else ""
    return [f"## Corrected scores\n{corrections.notes(record, truth)}\n\n{table(rows)}{figure}"] if rows else []


def _searches(record: Record) -> list[str]:
    """Return the sections on whole searches, one for each budget."""
    parts = []
    for low, high in comparison.budgets(record):
        found = comparison.methods(record, (low, high))
        if found:
            title = f"## Whole searches within {low / 1e6:.3g}M to {high / 1e6:.3g}M MACs"
            tables = [comparison.table(found), comparison.claims(found)]
            notes = comparison.NOTES, comparison.DIFFERENCES
            parts += [title, *(f"{note}\n\n{table(rows)}" for note, rows in zip(notes, tables, strict=True))]
    picture = "![Accuracy of the network each search ends with](comparison.png)"
    return [*parts, picture] if parts else []


def where(record: Record) -> list[dict[str, Any]]:
    """Return the machines, commits, versions and settings (digest) of the rows, with their seconds."""
    rows = dict[tuple[str, ...], dict[str, Any]]()
    for row in record.rows.values():
        place = {key: row.get(key, "") for key in ("machine", "git", "torch", "digest")}
        known = rows.setdefault(tuple(place.values()), place | {"rows": 0, "core seconds": 0})
        known["rows"] += 1
        known["core seconds"] += round(row["seconds"])
    return list(rows.values())
