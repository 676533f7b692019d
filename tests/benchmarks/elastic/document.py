"""Tables and figure of the results, computed from the record alone."""

from __future__ import annotations

import math
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt

from tests.benchmarks.elastic import break_even, paired
from tests.benchmarks.elastic.break_even import BreakEven
from tests.benchmarks.elastic.jobs import ALONE, METHODS, Row
from tests.benchmarks.fidelity.document import where
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.tables import table
from vitas_ds.config.limits import parse_number
from vitas_ds.errors import UserError

BEGIN, END = "<!-- measured by python -m tests.benchmarks.elastic -->", "<!-- end of the measured part -->"
PAGE, FOLDER, FIGURE = "elastic.md", "elastic", "break_even.png"
WIDTH = 120  # of a line
MOST = 8  # networks on the axis of the figure
SINGLE = """Who needs one network only gives pruning everything that elastic costs for this one."""
WHEN = {"top1": "after fine-tuning or training", "before": "before fine-tuning"}
NOTES = """Elastic minus the other method, in points of top-1: mean of the paired differences over the budgets, with the
interval of a t-test whose units are the seeds, at the level of Holm's procedure. A tie means that the interval
contains 0, not that both are equal. One seed has a difference, but no test."""


def write(record: Record, docs: Path) -> list[Path]:
    """Write ``elastic/results.md`` and the figure, and the short table into ``elastic.md``. Returns their paths."""
    rows, page = record.of("network"), docs / PAGE
    if not rows:
        raise UserError(f"{record.path}: no network is done yet")
    text = page.read_text() if page.exists() else ""
    if BEGIN not in text or END not in text:
        raise UserError(f"{page}: the lines '{BEGIN}' and '{END}' are missing")
    folder = docs / FOLDER
    folder.mkdir(exist_ok=True)
    even = break_even.compute([*record.rows.values()])
    if even is not None:
        plot(even, folder / FIGURE)
    (folder / "results.md").write_text(_results(record, even))
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{_summary(rows, even)}\n{END}{after}")
    return [page, folder / "results.md", *([folder / FIGURE] if even is not None else [])]


def _summary(rows: list[Row], even: BreakEven | None) -> str:
    """Return the measured part of ``elastic.md``."""
    found = together(rows, "top1")
    count = _seeds(rows)
    seeds = "One seed" if count == 1 else f"Mean of {count} seeds"
    lines = [table(means(rows, found)), f"{seeds}, in %: before -> after fine-tuning.\n{NOTES}"]
    lines += [*([ties(rows)] if count > 1 else []), SINGLE, table(single(rows))]
    if even is not None:
        lines += [sentence(even), f"![Cost against the number of networks]({FOLDER}/{FIGURE})"]
    return "\n\n".join([*lines, f"[All numbers]({FOLDER}/results.md)"])


def _results(record: Record, even: BreakEven | None) -> str:
    rows = record.of("network")
    parts = [
        "# Does elastic training pay off?\nComputed from the record by `python -m tests.benchmarks.elastic report`."
    ]
    for key, when in WHEN.items():
        parts.append(f"## All budgets together, {when}\n{NOTES}\n\n" + table(difference_rows(together(rows, key))))
        for budget in budgets(rows):
            parts.append(f"## {budget}, {when}\n" + table(difference_rows(differences(rows, key, [budget]))))
    parts.append(f"## A single network\n{SINGLE}\n\n" + table(single(rows)))
    if even is not None:
        parts.append(f"## Break-even\n{sentence(even)}\n\n![Cost against the number of networks]({FIGURE})")
    parts.append("## Networks\nMACs of training: own, and once for all budgets.\n\n" + table([*map(_network, rows)]))
    start = [_network(row | {"before": None}) for row in record.of("start")]
    return "\n\n".join([*parts, "## Start network\n" + table(start), "## Where\n" + table(where(record))]) + "\n"


def budgets(rows: list[Row]) -> list[str]:
    """Return the names of the budgets, smallest first."""
    return sorted({row["budget"] for row in rows}, key=parse_number)


def _seeds(rows: list[Row]) -> int:
    return len({row["seed"] for row in rows})


def differences(rows: list[Row], key: str, chosen: list[str]) -> dict[str, paired.Difference]:
    """Test elastic against all methods of equal computation over some budgets."""
    ours = paired.accuracies(rows, "elastic", key)
    others = {name: paired.accuracies(rows, name, key) for name in METHODS if name not in ("elastic", ALONE)}
    return paired.compare({name: paired.per_seed(ours, other, chosen) for name, other in others.items()})


def together(rows: list[Row], key: str) -> dict[str, paired.Difference]:
    """Test elastic against all methods over all budgets."""
    return differences(rows, key, budgets(rows))


def ties(rows: list[Row]) -> str:
    """Name the methods that tie with elastic at single budgets, after fine-tuning."""
    parts = []
    for budget in budgets(rows):
        found = [name for name, gap in differences(rows, "top1", [budget]).items() if gap.verdict == "tie"]
        parts.append(f"{budget}: {', '.join(found) or 'none'}")
    return fill(f"Ties at single budgets: {'; '.join(parts)}.", WIDTH)


def single(rows: list[Row]) -> list[dict[str, Any]]:
    """Compare elastic with ``ALONE``: a row for each budget, with Holm's correction for their number."""
    ours, other = (paired.accuracies(rows, name, "top1") for name in ("elastic", ALONE))
    found = paired.compare({budget: paired.per_seed(ours, other, [budget]) for budget in budgets(rows)})
    return [
        {"budget": budget, f"elastic minus {ALONE}": str(gap), "p (Holm)": gap.adjusted, "elastic is": gap.verdict}
        for budget, gap in found.items()
    ]


def difference_rows(found: dict[str, paired.Difference]) -> list[dict[str, Any]]:
    """Return a row for each method."""
    return [
        {"": METHODS[name].letter, "elastic minus": name, "difference": str(gap), "p (Holm)": gap.adjusted,
         "seeds": gap.seeds, "elastic is": gap.verdict}
        for name, gap in found.items()
    ]  # fmt: skip


def means(rows: list[Row], found: dict[str, paired.Difference]) -> list[dict[str, Any]]:
    """Return a row for each method with its accuracy at each budget: before -> after, mean of the seeds."""
    result = []
    for name, method in METHODS.items():
        mine = [row for row in rows if row["what"] == name]
        cells = {budget: _mean([row for row in mine if row["budget"] == budget]) for budget in budgets(rows)}
        gap = found.get(name)
        verdict = {
            "elastic minus it": "" if gap is None else str(gap),
            "elastic is": "" if gap is None else gap.verdict,
        }
        epochs = sorted({row["epochs"] for row in mine})
        counts = f"{epochs[0]}-{epochs[-1]}" if len(epochs) > 1 else "".join(map(str, epochs))
        result.append({"": method.letter, "method": name} | cells | {"epochs": counts} | verdict)
    return result


def _mean(rows: list[Row]) -> str:
    before = [100 * row["before"] for row in rows if row["before"] is not None]
    start = f"{np.mean(before):.1f} -> " if before else ""
    return f"{start}{100 * np.mean([row['top1'] for row in rows]):.1f}" if rows else ""


def _network(row: Row) -> dict[str, Any]:
    before = row["before"]
    return {
        "job": row["job"], "MACs": f"{row['macs'] / 1e6:.1f}M", "epochs": row["epochs"],
        "before, %": "" if before is None else f"{100 * before:.2f}", "top-1, %": f"{100 * row['top1']:.2f}",
        "own": f"{row['own']:.3g}", "once": f"{row.get('shared', 0):.3g}", "limit": f"{row.get('limit', 0):.3g}",
        "s": round(row["seconds"]),
    }  # fmt: skip


def sentence(even: BreakEven) -> str:
    """Return the break-even points in words."""
    points = "; ".join(f"{budget}: {_count(number)}" for budget, number in even.by_accuracy.items())
    text = (
        f"Elastic training and uniform pruning with the epochs of this comparison cost the same at {even.by_cost:.1f} "
        f"networks, as planned; every further network costs {even.elastic.each:.2g} instead of {even.pruned.each:.2g} "
        f"MACs. Number of networks from which elastic training costs less than pruning of the same accuracy: {points}."
    )
    return fill(text, WIDTH)


def _count(number: float) -> str:
    return "above that of this comparison" if math.isinf(number) else f"{max(number, 1):.1f}"


def plot(even: BreakEven, path: Path) -> None:
    """Plot cost against the number of networks."""
    _, axis = plt.subplots(figsize=(6.5, 4))
    count = np.linspace(0, MOST, 2)
    for line, label, style in (
        (even.elastic, "elastic, with fine-tuning", "-"), (even.direct, "elastic, without", "--"),
        (even.pruned, "pruning, epochs of the comparison", "-"),
        (even.alone, f"pruning, epochs of a single network ({ALONE})", ":"),
    ):  # fmt: skip
        axis.plot(count, [line.at(n) / 1e12 for n in count], style, label=label)
    if 0 < even.by_cost < MOST:
        axis.plot([even.by_cost], [even.elastic.at(even.by_cost) / 1e12], "o", color="black", label="equal cost")
    axis.set(xlabel="networks", ylabel="10^12 MACs", xlim=(0, MOST), ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    plt.tight_layout()
    plt.savefig(path, dpi=110, metadata={"Software": None})
    plt.close()
