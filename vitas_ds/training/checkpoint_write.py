"""One save in flight: a thread on each rank writes its files, and rank 0's thread publishes the checkpoint.

The threads use no collective, because the training loop may be inside one. A rank whose files are on disk writes a
marker, also to disk. Rank 0 renames the folder only after it has read the markers of all ranks, so a published
checkpoint is complete. A marker carries the token of its save: one left by a killed job does not count.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitas_ds.errors import UserError
from vitas_ds.run import lock
from vitas_ds.run.files import file_digest, sync_folder, write_text
from vitas_ds.training.checkpoint_files import DEEPSPEED, LATEST, REPLACED, forget_latest, manifest_digest

POLL = 0.05  # seconds between two looks for markers
VISIBLE = 30.0  # seconds until a file of another node must be visible

Writer = Callable[[Path, Callable[[], None]], dict[str, tuple[int, str]]]


@dataclass(frozen=True)
class Plan:
    """Content of a save. Training does not change it.

    Attributes:
        step: Number of finished steps.
        rank: This rank.
        writers: Number of ranks with files, from rank 0 on.
        token: Identifies this save.
        target: Folder of the published checkpoint.
        ready: Waits until the copy of the state is complete.
        write: ``write(folder, progress)`` writes the files of this rank, and returns size and SHA-256 of each.
        parts: File, first element and length of this rank's piece of each parameter. Empty in DeepSpeed's format.
        content: Content of state.json.
        manifest: The manifest without parts and files.
        after: Called on rank 0 after the checkpoint was published.
    """

    step: int
    rank: int
    writers: int
    token: str
    target: Path
    ready: Callable[[], object]
    write: Writer
    parts: dict[str, tuple[str, int, int]]
    content: dict[str, Any]
    manifest: dict[str, Any]
    after: Callable[[], object]

    @property
    def temporary(self) -> Path:
        """Folder to write and then to rename."""
        return self.target.with_name(f"saving-{self.target.name}")


@dataclass(frozen=True)
class Status:
    """State of a save on one rank: whether its files are on disk, whether its thread has ended, and its error."""

    written: bool
    done: bool
    error: Exception | None


class Write:
    """The thread of this rank in one save.

    Args:
        plan: What to write.
        limit: Seconds without progress after which the save counts as hanging.
    """

    def __init__(self, plan: Plan, limit: float) -> None:
        self.plan, self.limit = plan, limit
        self.all_written = threading.Event()  # set by the training loop: the files of all ranks are on disk
        self.closing = threading.Event()  # the job ends: do not wait for other ranks
        self._written = False
        self._error: Exception | None = None
        self._progress()
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def status(self) -> Status:
        """Return the state. A thread without progress for ``limit`` seconds has an error."""
        done = not self._thread.is_alive()  # before reading the rest, which the thread sets
        error = self._error
        if not done and time.monotonic() - self._last > self.limit:
            error = TimeoutError(f"no progress for run.timeout = {self.limit:g} s")
        return Status(self._written, done, error)

    def join(self, seconds: float) -> None:
        """Wait for the end of the thread."""
        self._thread.join(seconds)

    def _progress(self) -> None:
        self._last = time.monotonic()

    def _run(self) -> None:
        plan = self.plan
        try:
            plan.ready()
            own = self._write_own()
            self._written = True
            if plan.rank == 0:
                self._publish([own, *self._others()])
                plan.after()
        except Exception as error:
            self._error = error

    def _write_own(self) -> dict[str, Any]:
        """Write the files of this rank, and on other ranks than 0 the marker. Return the marker."""
        plan = self.plan
        if plan.rank >= plan.writers:
            return {}
        files = plan.write(plan.temporary, self._progress)
        marker = {"token": plan.token, "parts": plan.parts, "files": files}
        if plan.rank:
            sync_folder(plan.temporary)
            write_text(plan.temporary / _marker_name(plan.rank), json.dumps(marker))
        return marker

    def _others(self) -> list[dict[str, Any]]:
        """Wait for the markers of the other ranks, and return them in rank order."""
        missing = set(range(1, self.plan.writers))
        found: dict[int, dict[str, Any]] = {}
        while missing:
            last = self.closing.is_set() or (self.all_written.is_set() and time.monotonic() - self._last > VISIBLE)
            found |= self._read_markers(missing)
            missing -= found.keys()
            if missing and last:
                raise UserError(
                    f"{self.plan.temporary}: rank 0 does not see {_marker_name(min(missing))}; the run folder must be "
                    "shared by all nodes"
                )
            if not self.all_written.is_set():  # each rank watches its own progress
                self._progress()
            if missing:
                self.closing.wait(POLL)
        return [found[rank] for rank in sorted(found)]

    def _read_markers(self, ranks: set[int]) -> dict[int, dict[str, Any]]:
        names, found = set(os.listdir(self.plan.temporary)), {}
        for rank in ranks:
            if _marker_name(rank) in names:
                marker = json.loads((self.plan.temporary / _marker_name(rank)).read_text())
                if marker["token"] == self.plan.token:
                    found[rank] = marker
        return found

    def _publish(self, markers: list[dict[str, Any]]) -> None:
        """Write state.json and manifest.json, remove the markers, and rename the folder."""
        plan, folder = self.plan, self.plan.temporary
        files = {name: entry for marker in markers for name, entry in marker["files"].items()}
        missing = [name for name in files if not (folder / name).is_file()]
        if missing:
            raise UserError(f"{folder}: rank 0 does not see {missing[0]}; the run folder must be shared by all nodes")
        state = folder / "state.json"
        write_text(state, json.dumps(plan.content))
        files[state.name] = state.stat().st_size, file_digest(state)
        parts = {
            name: [marker["parts"][name] for marker in markers if name in marker["parts"]]
            for name in plan.manifest["shapes"]
        }
        manifest = plan.manifest | ({"parts": parts} if plan.parts else {}) | {"files": files}
        write_text(folder / "manifest.json", json.dumps(manifest | {"sha256": manifest_digest(manifest)}))
        for rank in range(1, len(markers)):
            (folder / _marker_name(rank)).unlink()
        sync_folder(folder)
        lock.check(folder)
        forget_latest(plan.target)
        _rename(folder, plan.target)
        if manifest["format"] == DEEPSPEED:
            write_text(plan.target.parent / LATEST, plan.target.name)


def _marker_name(rank: int) -> str:
    return f"written-{rank:05d}.json"


def _rename(temporary: Path, target: Path) -> None:
    """Rename the temporary folder, and flush the rename to disk."""
    old = target.with_name(f"{REPLACED}{target.name}")
    if target.exists():  # a damaged one of which the run has not resumed, or the same step with a new accuracy
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    temporary.rename(target)
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)
