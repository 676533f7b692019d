"""The study's results in tables: made from the record alone."""
# n nets, R seeds

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.fidelity import plots, study
from tests.benchmarks.fidelity.agreement import agreement, regret, rho, tau
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.study import Size

GROUPS = ("all", "equal")


def headline(row: dict[str, Any]) -> str:
    """A row of the record on a line of progress."""
    numbers = [f"{key} {row[key]:.4g}" for key in ("accuracy", "loss", "steps") if key in row]
    return ", ".join([*numbers, f"{row['seconds']} s"])


class Truth:
    """What the nets reach when each is trained alone."""

    def __init__(self, record: Record, size: Size) -> None:
        rows = {row["job"]: row for row in record.of("net")}
        of = {name: [rows.get(f"{name}, seed {seed}") for seed in range(size.seeds)] for name in study.nets(size)}
        whole = {name: group for name, group in of.items() if all(group)}
        self.names = list(whole)
        self.seeds_Rn = np.array([[row["accuracy"] for row in group] for group in whole.values()]).T
        self.mean_n = self.seeds_Rn.mean(0)
        self.macs_n = np.array([group[0]["macs"] for group in whole.values()])

    def group(self, name: str) -> np.ndarray:
        """The places of all nets, or of those at equal cost."""
        return np.flatnonzero([name == "all" or net.startswith(name) for net in self.names])


def scores_of(record: Record, truth: Truth, variant: str, way: str) -> np.ndarray:
    """[R, n] scores of the nets by the supernets of a variant."""
    rows = [row for row in record.of("supernet") if row["what"] == variant and way in row["scores"]]
    return np.array([[row["scores"][way][name] for name in truth.names] for row in rows])


def write(record: Record, size: Size, folder: Path) -> Path:
    """Write ``results.md`` and the pictures into a folder; the path of the text."""
    truth = Truth(record, size)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.md"
    path.write_text(text(record, truth))
    plots.write(record, truth, folder)
    return path


def text(record: Record, truth: Truth) -> str:
    """The whole of ``results.md``."""
    parts = [
        "# Results\nMade from record.jsonl by `python -m tests.benchmarks.fidelity`.",
        "## The nets trained alone\n" + _truth(truth),
        "## Supernets\nScored by the mean accuracy of the sides on 1,000 images held out of train.\n\n"
        + _table(_supernets(record, truth)),
        "## Ways of scoring the same supernets\n" + _table(_ways(record, truth)),
        "## Searches\n" + _table(_searches(record)),
        "## Where\n" + _table(_where(record)),
    ]
    return "\n\n".join(part for part in parts) + "\n"


def _truth(truth: Truth) -> str:
    lines = []
    for group in GROUPS:
        at = truth.group(group)
        accuracy, macs = truth.mean_n[at], truth.macs_n[at] / 1e6
        line = f"{len(at)} nets ({group}), {macs.min():.2f}M to {macs.max():.2f}M MACs: accuracy {accuracy.min():.4f} "
        line += f"to {accuracy.max():.4f}, deviation between nets {accuracy.std(ddof=1):.4f}"
        if len(truth.seeds_Rn) > 1:
            noise = (truth.seeds_Rn[0, at] - truth.seeds_Rn[1, at]).std(ddof=1) / 2**0.5
            first = truth.seeds_Rn[:1, at], truth.seeds_Rn[1, at]
            line += (f", between seeds of a net {noise:.4f}; noise ceiling, one seed against the other: "
                     f"tau {agreement(tau, *first)}, rho {agreement(rho, *first)}")  # fmt: skip
        lines.append(f"- {line}")
    return "\n".join(lines)


def _row(scores: np.ndarray, truth: Truth) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for group in GROUPS:
        at = truth.group(group)
        pair = scores[:, at], truth.mean_n[at]
        cells |= {f"tau, {group}": agreement(tau, *pair), f"rho, {group}": agreement(rho, *pair)}
    for k in (1, 5):
        cells[f"top-{k} regret, equal"] = f"{100 * regret(*pair, k):.2f}"
    return cells


def _supernets(record: Record, truth: Truth) -> list[dict[str, Any]]:
    rows = []
    for name in dict.fromkeys(row["what"] for row in record.of("supernet")):
        group = [row for row in record.of("supernet") if row["what"] == name]
        scores = scores_of(record, truth, name, "accuracy")
        steps, seconds = (f"{np.mean([row[key] for row in group]):.0f}" for key in ("steps", "training_seconds"))
        head = {"supernet": name, "seeds": len(group), "steps": steps, "seconds": seconds}
        base = scores_of(record, truth, study.variants()[0].name, "accuracy")
        more = agreement(tau, scores, truth.mean_n, base)
        rows.append(
            head | {"accuracy": f"{scores.mean():.3f}"} | _row(scores, truth) | {"tau, all, less bilateral's": more}
        )
    return sorted(rows, key=lambda row: -row["tau, all"].value)


def _ways(record: Record, truth: Truth) -> list[dict[str, Any]]:
    rows = []
    for name in dict.fromkeys(row["what"] for row in record.of("supernet") if study.variant(row["what"]).extra):
        ways = next(row["scores"] for row in record.of("supernet") if row["what"] == name)
        for way in ways:
            rows.append({"supernet": name, "score": way} | _row(scores_of(record, truth, name, way), truth))
    return rows


def found(record: Record, supernet: str) -> dict[str, np.ndarray]:
    """[searches] the accuracy, trained alone, of the net that each way picked by a supernet's scores; in percent."""
    accuracy: dict[str, list[float]] = {}
    for row in record.of("net"):
        accuracy.setdefault(row["job"].rpartition(", seed")[0], []).append(row["accuracy"])
    searches = searches_on(record, supernet)
    ways = dict.fromkeys(way for row in searches for way in row["best"])
    picks = {way: [accuracy.get(f"found {row['best'][way]['name']}") for row in searches] for way in ways}
    return {way: 100 * np.array([np.mean(p) for p in group]) for way, group in picks.items() if all(group)}


def searches_on(record: Record, supernet: str) -> list[dict[str, Any]]:
    """The searches by a supernet's scores, by seed."""
    return sorted((row for row in record.of("search") if row["what"] == supernet), key=lambda row: row["seed"])


def _searches(record: Record) -> list[dict[str, Any]]:
    rows = []
    for supernet in study.SEARCHED_ON:
        picked = found(record, supernet)
        for way, accuracy in picked.items():
            best = [row["best"][way] for row in searches_on(record, supernet)]
            less = accuracy - picked["random"]
            error = less.std(ddof=1) / len(less) ** 0.5 if len(less) > 1 else np.nan
            rows.append({
                "supernet": supernet, "way": way, "searches": len(accuracy),
                "different nets": len({told["name"] for told in best}),
                "score": f"{np.mean([told['score'] for told in best]):.4f}",
                "accuracy, %": f"{accuracy.mean():.2f} ({accuracy.min():.2f} to {accuracy.max():.2f})",
                "against random": f"{less.mean():+.2f} +- {error:.2f}" if any(less) else "",
            })  # fmt: skip
    return rows


def _where(record: Record) -> list[dict[str, Any]]:
    rows = {}
    for row in record.rows.values():
        place = row["machine"], row["git"], row["torch"]
        known = rows.setdefault(
            place, {"machine": place[0], "commit": place[1], "torch": place[2], "rows": 0, "seconds": 0}
        )
        known["rows"] += 1
        known["seconds"] += round(row["seconds"])
    return list(rows.values())


def _table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "Not done yet."
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
