"""Corrupt the files of a run, and read the run with each command that uses the file."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.faults.attack.cases import Outcome, Score, run

TYPES = (b"{}", b"[]", b"3", b"null", b'"x"', b"\xff\xfe", b'{"a":' * 5000, b"[" * 5000, b"9" * 5000,
         b'{"a": 1, "a": 2}', b"x" * 100_000, b"\0" * 100, b'{"spec": 3}', b"a: b: c", b"- \t-")  # fmt: skip


def flip(path: Path, rng: random.Random) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes() or b"x")
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, rng: random.Random) -> None:
    """Cut the file at a random place."""
    os.truncate(path, rng.randrange(path.stat().st_size + 1))


def replace(path: Path, rng: random.Random) -> None:
    """Write something else."""
    path.write_bytes(rng.choice(TYPES))


def folder(path: Path, _: random.Random) -> None:
    """Put a folder in the place of the file."""
    path.unlink()
    path.mkdir()


def link(path: Path, rng: random.Random) -> None:
    """Put a link in the place of the file."""
    path.unlink()
    path.symlink_to(rng.choice((path, Path("/dev/null"), Path("/no/where"), Path("/etc/hostname"))))


def pipe(path: Path, _: random.Random) -> None:
    """Put a pipe in the place of the file: to open it waits."""
    path.unlink()
    os.mkfifo(path)


def remove(path: Path, _: random.Random) -> None:
    """Delete the file."""
    path.unlink()


def swap(path: Path, rng: random.Random) -> None:
    """Put another file of the run in its place."""
    others = [p for p in path.parent.iterdir() if p.is_file() and p != path]
    if others:
        shutil.copyfile(rng.choice(others), path)


HOW: tuple[Callable[[Path, random.Random], None], ...] = (
    flip, flip, flip, truncate, truncate, replace, replace, folder, link, pipe, remove, swap,
)  # fmt: skip


def commands(run_dir: Path, image: Path) -> dict[str, list[str]]:
    """Return the commands that read a run, by name."""
    model = run_dir / "export"
    return {
        "report": ["report", str(run_dir)],
        "predict": ["predict", str(model), str(image), "--json"],
        "cost": ["cost", str(model / "spec.json"), "--json"],
        "consolidate": [
            "consolidate", str(run_dir / "supernet" / "checkpoints"), "--out", str(run_dir / "weights.out"), "--best",
        ],
    }  # fmt: skip


def reads(file: Path) -> str:
    """Return the name of the command that reads a file of the run (relative)."""
    if file.parts[0] == "export":
        return "cost" if file.name == "spec.json" and len(file.parts) == 2 else "predict"
    return "consolidate" if "checkpoints" in file.parts else "report"


def result(outcome: Outcome, run_dir: Path) -> object:
    """Return what must not change silently."""
    weights = run_dir / "weights.out"
    try:
        return json.loads(outcome.out), weights.read_bytes() if weights.exists() else b""
    except ValueError:
        return weights.read_bytes() if weights.exists() else b""


class Corruption:
    """The attack on the files of one finished run."""

    def __init__(self, source: Path, scratch: Path, image: Path) -> None:
        self.source, self.target, self.image = source, scratch / source.name, image
        files = (path.relative_to(source) for path in source.rglob("*") if path.is_file())
        self.files = sorted(file for file in files if "wandb" not in file.parts and "life" not in file.parts)
        self.expected = {}
        for name, argv in commands(self.target, image).items():
            self._copy()
            self.expected[name] = result(run(argv), self.target)

    def _copy(self) -> None:
        shutil.rmtree(self.target, ignore_errors=True)
        shutil.copytree(self.source, self.target)

    def attack(self, rng: random.Random, score: Score) -> None:
        """Corrupt a random file and run the command that reads it."""
        file, how = rng.choice(self.files), rng.choice(HOW)
        self._copy()
        how(self.target / file, rng)
        name = reads(file)
        outcome = run(commands(self.target, self.image)[name], limit=30)
        wrong = []
        compared = name != "report" and outcome.status == 0 and "warning" not in outcome.err
        if compared and result(outcome, self.target) != self.expected[name]:
            wrong = ["silent difference"]
        score.add("corrupted files", f"{how.__name__} {file}", outcome, wrong)
