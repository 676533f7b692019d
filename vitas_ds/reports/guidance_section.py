"""Can the supernet and its scores be trusted? Accuracy of subnets during training, the check, the separation."""

from __future__ import annotations

from typing import Any

from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import SubnetSpec, spec_from_dict
from vitas_ds.reports.search_section import values_of
from vitas_ds.reports.svg import Axis, Series, chart, short
from vitas_ds.run.files import read_json
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.summary import read_summary
from vitas_ds.search.curve import PREFIX
from vitas_ds.search.separation_result import Separation
from vitas_ds.search.trials.check_result import describe, read_check
from vitas_ds.search.trials.correction import held_out, read_correction

Rows = list[dict[str, Any]]
ACCURACY = Axis("accuracy on the search images", percent=True)
COLORS = {"smallest": 2, "largest": 3}  # of the curves; those of random subnets are 1


def accuracy_chart(run: RunDir, metrics: Rows) -> str:
    """Draw the accuracy of the measured subnets over the steps of the training; empty if there is none."""
    saved = read_json(run.supernet_subnets, {})
    series, named = [], False
    for name, spec in saved.get("subnets", {}).items():
        title = name if name in COLORS else "" if named else "random, within the budget"
        named = named or name not in COLORS
        series.append(_curve(metrics, name, title, spec_from_dict(spec, str(run.supernet_subnets))))
    images = f" on {saved['images']:,} search images" if saved else ""
    return chart(f"Accuracy of subnets{images}", series, Axis("step", whole=True), ACCURACY)


def _curve(metrics: Rows, name: str, title: str, spec: SubnetSpec) -> Series:
    steps, values = values_of(metrics, "train-supernet", PREFIX + name)
    macs = short(spec_macs(spec))
    tips = [f"{name}, {macs} MACs: {value:.1%} at step {step:,}" for step, value in zip(steps, values, strict=True)]
    title = title and title + (f", {macs} MACs" if name in COLORS else "")
    return Series(title, steps, values, COLORS.get(name, 1), dots=True, tips=tips)


def check_charts(run: RunDir) -> list[str]:
    """Draw the accuracy of the networks trained alone over their scores; empty without a check.

    The second chart, of a search that corrects its scores, has for each network the score by a correction fitted to
    the others.
    """
    result = read_check(run)
    rows = result.get("nets", [])
    alone = Axis(f"accuracy after {result.get('steps', 0):,} steps alone", percent=True)
    first = chart(
        f"Check of the supernet: {alone.name}", _dots(rows), Axis("score by the supernet", percent=True), alone
    )
    if not rows or read_correction(run) is None:
        return [first]
    fitted = [row | {"score": score} for row, score in zip(rows, held_out(result), strict=True)]
    axis = Axis("corrected score, fitted to the other networks", percent=True)
    return [first, chart(f"Check of corrected scores: {alone.name}", _dots(fitted), axis, alone)]


def _dots(rows: Rows) -> list[Series]:
    sizes = sorted({row["spec"]["patch_size"] for row in rows})
    return [
        _dots_of(f"patch size {size}", [row for row in rows if row["spec"]["patch_size"] == size], 1 + i % 3)
        for i, size in enumerate(sizes)
    ]


def _dots_of(name: str, rows: Rows, color: int) -> Series:
    tips = [
        f"accuracy {row['accuracy']:.1%}, score {row['score']:.1%}, {short(row['macs'])} MACs, "
        f"{len(row['spec']['layers'])} layers, embedding {row['spec']['embed_dim']}"
        for row in rows
    ]
    scores, values = [row["score"] for row in rows], [row["accuracy"] for row in rows]
    return Series(name, scores, values, color, line=False, dots=True, tips=tips)


def notes(run: RunDir) -> list[str]:
    """Return sentences about the check and the separation of the scores."""
    result, found = read_check(run), read_summary(run).get("search", {}).get("separation")
    lines = [f"Check of the supernet: {describe(result, read_correction(run) is not None)}."] if result else []
    if found:
        values = {name: found[name] for name in Separation.__dataclass_fields__}
        text, details = found["warning"], Separation(**values).describe()
        if text:
            lines += [f"{text.replace('search: the scores', 'The scores')}.", f"In detail: {details}."]
        else:
            lines.append(f"The scores separate the best candidates: {details}.")
    return lines
