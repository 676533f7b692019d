"""Damage every file of a run in every way, and start what reads it: it must tell, or give the same results."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from tests.faults.attack.cases import Outcome, Score, run
from tests.faults.attack.finished import Finished, difference, products
from vitas_ds.commands import STAGES
from vitas_ds.run.files import file_digest

TYPES = (b"{}", b"[]", b"3", b"null", b'"x"', b"\xff\xfe", b'{"a":' * 5000, b"[" * 5000, b"9" * 5000,
         b'{"a": 1, "a": 2}', b"x" * 100_000, b"\0" * 100, b'{"spec": 3}', b"a: b: c", b"- \t-")  # fmt: skip
# the arguments: a file, random numbers, and the file of that name of another run
Damage = Callable[[Path, random.Random, Path], None]


def flip(path: Path, rng: random.Random, _: Path) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes() or b"x")
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, rng: random.Random, _: Path) -> None:
    """Cut the file at a random place."""
    os.truncate(path, rng.randrange(path.stat().st_size + 1))


def empty(path: Path, *_: object) -> None:
    """Remove the content."""
    os.truncate(path, 0)


def replace(path: Path, rng: random.Random, _: Path) -> None:
    """Write something else."""
    path.write_bytes(rng.choice(TYPES))


def rename_key(path: Path, rng: random.Random, _: Path) -> None:
    """Change the last letter of a key of JSON."""
    content = bytearray(path.read_bytes())
    keys = [match.start() for match in re.finditer(rb'[a-z]": ', content)]
    if keys:
        content[rng.choice(keys)] = ord("Q")
        path.write_bytes(content)


def other_value(path: Path, rng: random.Random, _: Path) -> None:
    """Put a value of another type into JSON."""
    content = path.read_bytes()
    values = list(re.finditer(rb'(?<=": )(-?\d[\d.e+-]*|"[^"]*"|true|false|null|\[[^][{}]*\])', content))
    if values:
        old = rng.choice(values)
        new = rng.choice((b"-1", b"null", b'"x"', b"[]", b"{}", b"1e999", b"true", b"[null]", b"123456789123456789"))
        path.write_bytes(content[: old.start()] + new + content[old.end() :])


def folder(path: Path, *_: object) -> None:
    """Put a folder in the place of the file."""
    path.unlink()
    path.mkdir()


def link(path: Path, rng: random.Random, same: Path) -> None:
    """Put a link in the place of the file: to itself, a device, nothing, or the file of the other run."""
    path.unlink()
    path.symlink_to(rng.choice((path, Path("/dev/null"), Path("/no/where"), same)))


def pipe(path: Path, *_: object) -> None:
    """Put a pipe in the place of the file: to open it waits."""
    path.unlink()
    os.mkfifo(path)


def remove(path: Path, *_: object) -> None:
    """Delete the file."""
    path.unlink()


def swap(path: Path, rng: random.Random, _: Path) -> None:
    """Put another file of the folder in its place."""
    others = [p for p in path.parent.iterdir() if p.is_file() and p != path]
    if others:
        shutil.copyfile(rng.choice(others), path)


def other_run(path: Path, _: random.Random, same: Path) -> None:
    """Put the file of another run in its place."""
    if same.is_file():
        shutil.copyfile(same, path)


HOW: tuple[Damage, ...] = (flip, flip, truncate, truncate, empty, replace, replace, rename_key, other_value, folder,
                           link, pipe, remove, swap, other_run)  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """A command that reads files of a run.

    Attributes:
        name: Its name.
        state: Number of finished stages of the run.
        argv: The command line.
        remove: Files and folders of the run to remove first, to make the command do its work.
        result: What it gives, from its output.
    """

    name: str
    state: int
    argv: list[str]
    remove: tuple[str, ...] = ()
    result: Callable[[Outcome], object] = lambda outcome: None


def readers(finished: Finished) -> list[Reader]:
    """Return the commands that read a run: tools, each stage, and the stages that an interruption left unfinished."""
    run_dir, last = finished.run, len(STAGES)
    model, weights = run_dir / "export", finished.disk / "weights.safetensors"

    def consolidated(_: Outcome) -> object:
        return weights.read_bytes() if weights.is_file() else None

    found = [
        Reader("report", last, ["report", str(run_dir)]),
        Reader("status", last, ["status", str(run_dir)]),
        Reader("runs", last, ["runs", str(run_dir.parent)]),
        Reader("clean", last, ["clean", str(run_dir), "--yes"]),
        Reader("predict", last, ["predict", str(model), str(finished.image), "--json"], result=_json),
        Reader("cost", last, ["cost", str(model / "spec.json"), "--json"], result=_json),
        Reader("consolidate", last, ["consolidate", str(run_dir / "supernet" / "checkpoints"), "--out", str(weights),
                                     "--best", "--force"], result=consolidated),
    ]  # fmt: skip
    for number, stage in enumerate(STAGES):
        if number:
            found.append(Reader(stage, number, finished.argv(stage)))
    unfinished = {"train-supernet": "supernet/weights.safetensors", "search": "search/best.json",
                  "retrain": "retrain/model", "export": "export/spec.json"}  # fmt: skip
    for stage, product in unfinished.items():
        number = [*STAGES].index(stage)
        found.append(Reader(f"resumed {stage}", number + 1, finished.argv(stage), (product, "summary.json")))
    return found


def _json(outcome: Outcome) -> object:
    return json.loads(outcome.out)


READ_BY = {  # start of a path: readers besides the tools
    "supernet/checkpoints": ("resumed train-supernet", "consolidate"), "supernet": ("search",),
    "search/ledger": ("resumed search",), "search": ("retrain", "resumed search"), "search_images": ("search",),
    "retrain/checkpoints": ("resumed retrain",), "retrain/model": ("evaluate", "export"),
    "retrain": ("resumed retrain",), "export": ("predict", "cost", "resumed export"),
}  # fmt: skip
ANY = ("report", "status", "runs", "clean")


class Corruption:
    """The attack on the files of one run.

    Args:
        finished: The run.
        other: A run with another seed.
        rng: Chooses the order and the damage.
    """

    def __init__(self, finished: Finished, other: Finished, rng: random.Random) -> None:
        self.finished, self.other, self.rng = finished, other, rng
        self.readers = {reader.name: reader for reader in readers(finished)}
        self.expected: dict[str, tuple[object, dict[str, Any] | None]] = {
            reader.name: self._undamaged(reader) for reader in self.readers.values()
        }
        planned = [(reader, file, how) for reader in self.readers.values() for file in self._files(reader)
                   for how in HOW if not (how is remove and self._leaves_no_trace(reader, file))]  # fmt: skip
        rng.shuffle(planned)
        self.plan = cycle(planned)

    def _undamaged(self, reader: Reader) -> tuple[object, dict[str, Any] | None]:
        self._put(reader)
        outcome = run(reader.argv)
        assert outcome.status == 0, f"{reader.name}: {outcome.status}: {outcome.err}"
        return reader.result(outcome), products(self.finished.run) if _is_stage(reader) else None

    def _put(self, reader: Reader) -> None:
        self.finished.put(reader.state)
        for name in reader.remove:
            path = self.finished.run / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def _files(self, reader: Reader) -> Iterator[Path]:
        """Yield the files that a reader may read, relative to the run."""
        self._put(reader)
        for path in sorted(self.finished.run.rglob("*")):
            file = path.relative_to(self.finished.run)
            known = next((names for start, names in READ_BY.items() if str(file).startswith(start)), None)
            wanted = reader.name in (ANY if known is None else (*known, "report"))
            if path.is_file() and (wanted or (known is None and _is_stage(reader))):
                yield file

    @staticmethod
    def _leaves_no_trace(reader: Reader, file: Path) -> bool:
        """Return whether nothing tells that a file is missing: only it and the summary have these numbers."""
        return file == Path("evaluation.json") and "summary.json" in reader.remove

    def attack(self, score: Score) -> None:
        """Damage a file, and start a command that reads it."""
        reader, file, how = next(self.plan)
        self._put(reader)
        path = self.finished.run / file
        same = self.other.states / str(reader.state) / file
        before = self._digest(same)
        how(path, self.rng, same)
        outcome = run(reader.argv)
        told = path.name in outcome.err + outcome.out or "settings changed" in outcome.out
        problems = self._differences(reader, outcome, str(file)) if outcome.status == 0 and not told else []
        if outcome.status == 2 and not (told or path.parent.name in outcome.err):
            problems = ["unnamed file"]
        if how is link and self._digest(same) != before:
            problems.append("written outside the run")
        score.add("damaged files", f"{how.__name__} {file}: {reader.name}", outcome, problems)

    @staticmethod
    def _digest(file: Path) -> str:
        return file_digest(file) if file.is_file() else ""

    def _differences(self, reader: Reader, outcome: Outcome, damaged: str) -> list[str]:
        """Return the results that differ, besides the damaged file."""
        result, expected = self.expected[reader.name]
        if reader.result(outcome) != result:
            return ["silent difference: result"]
        lost = [name for name in difference(self.finished.run, expected) if name != damaged] if expected else []
        return [f"silent difference: {', '.join(lost)}"] if lost else []


def _is_stage(reader: Reader) -> bool:
    return reader.name.removeprefix("resumed ") in STAGES and reader.name != "report"
