"""Results of the searches, from the record."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks.fidelity.record import Record


def on(record: Record) -> list[str]:
    """Return the supernets that were searched."""
    return list(dict.fromkeys(row["what"] for row in record.of("search")))


def found(record: Record, supernet: str) -> dict[str, np.ndarray]:
    """Return the accuracy in percent [searches] of the picks of each way on a supernet, trained alone."""
    accuracy: dict[str, list[float]] = {}
    for row in record.of("net"):
        accuracy.setdefault(row["job"].rpartition(", seed")[0], []).append(row["accuracy"])
    searches = searches_on(record, supernet)
    ways = dict.fromkeys(way for row in searches for way in row["best"])
    picks = {way: [accuracy.get(f"found {row['best'][way]['name']}") for row in searches] for way in ways}
    return {way: 100 * np.array([np.mean(p) for p in group]) for way, group in picks.items() if all(group)}


def searches_on(record: Record, supernet: str) -> list[dict[str, Any]]:
    """Return the searches on a supernet, sorted by seed."""
    return sorted((row for row in record.of("search") if row["what"] == supernet), key=lambda row: row["seed"])


def table(record: Record) -> list[dict[str, Any]]:
    """Return a row for the picks of each way on each supernet."""
    rows = []
    for supernet in on(record):
        picked = found(record, supernet)
        for way, accuracy in picked.items():
            best = [row["best"][way] for row in searches_on(record, supernet)]
            less = accuracy - picked["random"]
            error = less.std(ddof=1) / len(less) ** 0.5 if len(less) > 1 else np.nan
            rows.append({
                "supernet": supernet, "way": way, "searches": len(accuracy),
                "different nets": len({pick["name"] for pick in best}),
                "score": f"{np.mean([pick['score'] for pick in best]):.4f}",
                "accuracy, %": f"{accuracy.mean():.2f} ({accuracy.min():.2f} to {accuracy.max():.2f})",
                "against random": f"{less.mean():+.2f} +- {error:.2f}" if any(less) else "",
            })  # fmt: skip
    return rows
