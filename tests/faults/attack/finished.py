"""Runs that nothing disturbs: their states before and after each stage, and the products that must not change."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.attack.cases import Blow, run
from tests.helpers.digits import write_digits
from tests.helpers.paths import FIXTURES
from vitas_ds.commands import STAGES

SETTINGS = (
    "supernet.epochs=1", "supernet.save_every=3", "retrain.epochs=1", "retrain.save_every=3", "run.device=cpu",
    "search.generations=2", "tracking.wandb=disabled",
)  # fmt: skip
DISK = 48 << 20  # bytes of the disk that can become full
VARYING = ("seconds", "time", "training time")  # keys of values that differ between equal runs
CLONE_NEWNS = 0x20000  # linux/sched.h


@dataclass
class Finished:
    """A run after each of its stages.

    Attributes:
        folder: Folder of everything.
        args: Recipe and overrides.
        states: Folder of copies: the run after each stage, by its number; 0 is before the first one.
        points: Changes of files of each stage.
        seconds: Duration of each stage.
    """

    folder: Path
    args: list[str]
    states: Path
    points: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def disk(self) -> Path:
        """The disk that the attack fills."""
        return self.folder / "disk"

    @property
    def run(self) -> Path:
        """The run that is attacked: a copy of a state, always at the same path."""
        return self.disk / "runs" / "tiny"

    @property
    def image(self) -> Path:
        """A validation image."""
        return next((self.folder / "digits" / "val").rglob("*.jpg"))

    def put(self, stages: int) -> None:
        """Put the run into its state after the first ``stages`` stages."""
        shutil.rmtree(self.run, ignore_errors=True)
        if stages:
            shutil.copytree(self.states / str(stages), self.run)

    def argv(self, stage: str) -> list[str]:
        """Return the command line of a stage."""
        return [stage, *self.args]


def make(folder: Path, seed: int = 3) -> Finished:
    """Run all stages; keep the state after each of them."""
    data = write_digits(folder / "digits", 20, 4)
    args = [str(FIXTURES / "tiny.yaml"), *SETTINGS, f"data.train={data}/train", f"data.val={data}/val"]
    states = folder / f"states-{seed}"
    made = Finished(folder, [*args, f"run.seed={seed}", f"run.dir={folder}/disk/runs"], states)
    shutil.rmtree(made.run, ignore_errors=True)
    for number, stage in enumerate(STAGES, 1):
        done = run(made.argv(stage), limit=200, blow=Blow(watched=str(made.run)))
        assert done.status == 0, f"{stage}: {done.err}"
        made.points[stage] = done.points
        shutil.copytree(made.run, states / str(number))
    return made


def products(run: Path) -> dict[str, Any]:
    """Return what no interruption and no damage may change silently, by file."""
    files = (
        "classes.json", "search_images.txt", "supernet/weights.safetensors", "retrain/spec.json",
        *(f"{folder}/{name}" for folder in ("retrain/model", "export")
          for name in ("model.safetensors", "spec.json", "preprocess.json")),
    )  # fmt: skip
    found: dict[str, Any] = {name: hashlib.sha256((run / name).read_bytes()).hexdigest()
                             for name in files if (run / name).is_file()}  # fmt: skip
    for name in ("summary.json", "search/best.json", "search/pareto.json"):
        if (run / name).is_file():
            found[name] = without_times(_parsed((run / name).read_bytes()))
    ledger, metrics = ([_parsed(line) for line in _content(run / name).splitlines()]
                       for name in ("search/ledger.jsonl", "metrics.jsonl"))  # fmt: skip
    if ledger:
        found["search/ledger.jsonl"] = sorted(json.dumps(without_times(line), sort_keys=True) for line in ledger)
    if metrics:
        found["metrics.jsonl"] = [
            (row.get("stage"), row.get("step"), row["loss"]) if isinstance(row, dict) else row
            for row in metrics if not isinstance(row, dict) or "loss" in row
        ]  # fmt: skip
    found["report"] = (run / "report" / "index.html").is_file()
    return found


def _content(file: Path) -> bytes:
    return file.read_bytes() if file.is_file() else b""


def _parsed(text: bytes) -> Any:
    """Return the content of JSON, or the text if the attack has damaged it."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.decode(errors="replace")


def without_times(value: Any) -> Any:
    """Return a copy without the values that differ between equal runs."""
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in VARYING}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def difference(run: Path, expected: dict[str, Any]) -> list[str]:
    """Return the names of the products that differ."""
    found = products(run)
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def mount_disk(folder: Path) -> bool:
    """Mount a small file system that only this process and its children see. Return whether that is possible."""
    folder.mkdir()
    if ctypes.CDLL(None).unshare(CLONE_NEWNS):
        return False
    commands = (
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "attack", str(folder)],
    )
    return all(not subprocess.run(words, capture_output=True, check=False).returncode for words in commands)


def unmount_disk(disk: Path) -> None:
    """Remove the disk again; it may be none."""
    os.chdir("/")
    subprocess.run(["umount", "--lazy", str(disk)], capture_output=True, check=False)


def fill(disk: Path, free: int) -> None:
    """Leave ``free`` bytes of the disk."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    state = os.statvfs(disk)
    if (size := state.f_bavail * state.f_frsize - free) > 0:
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)


def set_read_only(disk: Path, value: bool) -> None:
    """Mount the disk again, to read or to write."""
    subprocess.run(["mount", "-o", f"remount,{'ro' if value else 'rw'}", disk], check=True)
