"""Command lines: every key of the schema with odd values."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from tests.faults.attack.cases import Score, run
from vitas_ds.config import Config

VALUES = (
    "0", "-1", "1", "1.10", "007", "on", "1e3", "1e400", "-1e18", "nan", "inf", "null", "~", "", "[]", "{}", "[1, 2]",
    "[2, 1]", "[nan, 1]", "[1, 1, 1]", "true", "auto", "..", "a/b", "/", "~/x", "$HOME/x", "$NOPE", "x" * 300,
    "é", "\udcff", "\u2028", "a\tb", "{a: 1, a: 2}", "&a [*a]", "*a", "[" * 200, "!!python/name:os.system", "9" * 5000,
    "2147483648", "9223372036854775808", "0x10", "1_000", "2024-01-01", "'", '"', "|", "%", "@x", "search:best[0]",
    "search:macs<nan", "../../etc/passwd", "fp16", "[[1]]", "1:30", "-0.0", "5e-324",
)  # fmt: skip


def fields(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all keys and sections."""
    for name, info in model.model_fields.items():
        inner: Any = info.annotation
        yield prefix + name
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from fields(inner, f"{prefix}{name}.")


def attack(rng: random.Random, score: Score, recipe: str) -> None:
    """Check one random command line without starting a stage."""
    names = list(fields())
    words = [f"{rng.choice(names)}={rng.choice(VALUES)}" for _ in range(rng.choice((1, 1, 2, 3)))]
    if rng.random() < 0.1:
        words.append(rng.choice(("--nope", "x", "=", "a.b=", "--world-size=0", "--world-size=x", "")))
    outcome = run(["config", recipe, *words], limit=30)
    score.add("command lines", " ".join(words)[:200], outcome)
