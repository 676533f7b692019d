"""Command lines, from the schema and from the arguments of each command, with odd values."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from tests.faults.attack.cases import Blow, Score, run
from tests.faults.attack.finished import Finished
from vitas_ds.commands import STAGES, TOOLS
from vitas_ds.config import Config

VALUES = (
    "0", "-1", "1", "1.10", "007", "on", "1e3", "1e400", "-1e18", "nan", "inf", "null", "~", "", "[]", "{}", "[1, 2]",
    "[2, 1]", "[nan, 1]", "[1, 1, 1]", "true", "auto", "..", "a/b", "/", "~/x", "$HOME/x", "$NOPE", "x" * 300,
    "é", "\udcff", "\u2028", "a\tb", "{a: 1, a: 2}", "&a [*a]", "*a", "[" * 200, "!!python/name:os.system", "9" * 5000,
    "2147483648", "9223372036854775808", "0x10", "1_000", "2024-01-01", "'", '"', "|", "%", "@x", "search:best[0]",
    "search:macs<nan", "../../etc/passwd", "fp16", "[[1]]", "1:30", "-0.0", "5e-324",
)  # fmt: skip
TAME = ("0", "-1", "1", "2", "0.5", "1e-9", "3", "true", "false", "null", "[1, 2]", "nan")  # of started stages
WORDS = ("--nope", "x", "=", "a.b=", "--world-size=0", "--world-size=x", "")
SAFE = ("run.dir", "run.name", "data.val", "data.train", "tracking.wandb", "tracking.mode", "tracking.entity")
NEVER = ("--follow", "--download")  # waits, or uses the network
LONG = 2.5  # seconds after which a started stage is asked to stop


def fields(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all keys and sections."""
    for name, info in model.model_fields.items():
        inner: Any = info.annotation
        yield prefix + name
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from fields(inner, f"{prefix}{name}.")


KEYS = [*fields()]


def check(rng: random.Random, score: Score, recipe: str) -> None:
    """Check a random command line without starting a stage."""
    words = [f"{rng.choice(KEYS)}={rng.choice(VALUES)}" for _ in range(rng.choice((1, 1, 2, 3)))]
    if rng.random() < 0.1:
        words.append(rng.choice(WORDS))
    outcome = run(["config", recipe, *words], limit=30)
    score.add("command lines", " ".join(words)[:200], outcome, allowed={0, 2})


def start_stage(rng: random.Random, score: Score, finished: Finished) -> None:
    """Start a stage with a value that is likely to be accepted; ask it to stop if it works on for long."""
    stage = rng.choice([*STAGES])
    key = rng.choice([key for key in KEYS if "." in key and not key.startswith(SAFE)])
    finished.put([*STAGES].index(stage))
    word = f"{key}={rng.choice(TAME)}"
    outcome = run([*finished.argv(stage), word], limit=60, blow=Blow(signal.SIGTERM, delay=LONG))
    score.add("started stages", f"{stage} {word}", outcome, allowed={0, 2, 74, 75})


def run_tool(rng: random.Random, score: Score, finished: Finished) -> None:
    """Run a tool with random arguments of its own."""
    name = rng.choice([*TOOLS])
    finished.put(len(STAGES))
    scratch = finished.disk / "tool"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    places = [
        str(finished.run), str(finished.run / "export"), str(finished.image), str(finished.image.parent.parent),
        str(finished.run / "supernet" / "checkpoints"), str(finished.run / "export" / "spec.json"), "vitas-a",
        str(finished.run / "config.yaml"), str(finished.run / "export" / "model.safetensors"), "/no/where", "",
        finished.args[0], str(scratch), "/dev/null", "x" * 300, "~", "\udcff",
        str(finished.run / "search" / "ledger.jsonl"),
    ]  # fmt: skip
    argv = [name]
    for argument, options in TOOLS[name].arguments:
        argv += _words(rng, argument, options, places, str(scratch / rng.choice(("out", "a b", "out.json", "a.png"))))
    outcome = run(argv, limit=60, blow=Blow(signal.SIGTERM, delay=20))
    score.add("tools", " ".join(argv)[:300], outcome, allowed={0, 1, 2, 74, 75, -signal.SIGTERM})


def _words(rng: random.Random, argument: str, options: dict[str, Any], places: list[str], out: str) -> list[str]:
    """Return random words for one argument of a tool; tools only write below ``out``."""
    if argument in NEVER or (argument.startswith("--") and not options.get("required") and rng.random() < 0.6):
        return []
    if options.get("action") == "store_true":
        return [argument]
    if argument in ("--out", "--write", "--plot", "dest"):
        value = out
    elif argument == "overrides":
        return [f"{rng.choice(KEYS)}={rng.choice(VALUES[:30])}" for _ in range(rng.randint(0, 1))]
    elif "choices" in options:
        value = rng.choice([*options["choices"], "x"])
    elif argument in ("recipe", "model", "images", "data", "net", "more", "checkpoint", "run", "folder", "source",
                      "--data", "--checkpoint", "--net", "--importance"):  # fmt: skip
        value = rng.choice(places)
    else:
        value = rng.choice((*VALUES[:14], "8", "64"))
    return [argument, value] if argument.startswith("--") else [value]
