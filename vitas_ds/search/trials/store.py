"""The files of the finalists: settings and states of their trainings, and results.

search/finalists/settings.json         settings of the trainings
search/finalists/NAME.safetensors      state of the training of a candidate; NAME is a digest of its spec
search/finalists/NAME-STEP.json        its result at a step; written after the state
search/finalists/stop                  exists while the ranks are asked to stop
search/finalists.jsonl                 results and decisions of the finished rungs

One rank of a group writes the files of its candidate; rank 0 writes the others.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.errors import Stale, UserError
from vitas_ds.errors.reading import check_regular, parse_json_line
from vitas_ds.run.files import read_json, to_json, write_json, write_tensors, write_text
from vitas_ds.run.run_dir import RunDir
from vitas_ds.search.trials.rows import Row
from vitas_ds.training.plain import PlainTrainer

VISIBLE = 120  # seconds until another node sees a new file on NFS


@dataclass(frozen=True)
class Outcome:
    """Result of a candidate at a step.

    Attributes:
        step: Optimizer steps of its training.
        accuracy: Accuracy on the search images.
        stderr: Standard error of ``accuracy``.
        loss: Cross entropy on the search images.
        seconds: Duration of the training so far, over all starts.
        skipped: Steps whose gradient was not finite.
        side: Side of the supernet whose weights were inherited; None without inherited weights.
    """

    step: int
    accuracy: float
    stderr: float
    loss: float
    seconds: float
    skipped: int = 0
    side: str | None = None


@dataclass(frozen=True)
class Progress:
    """Content of a state besides the trainer: duration of the training, and the side of inherited weights."""

    seconds: float = 0.0
    side: str | None = None


@dataclass(frozen=True)
class Store:
    """The files of the finalists of a run. ``trained`` names them in messages."""

    run: RunDir
    trained: str = "finalists"

    @property
    def _settings(self) -> Path:
        return self.run.finalist_states / "settings.json"

    def settings(self) -> dict[str, Any]:
        """Return the settings of the trainings; empty if there are none."""
        return cast(dict[str, Any], read_json(self._settings, {}))

    @property
    def stop(self) -> Path:
        """File that asks all ranks to stop."""
        return self.run.finalist_states / "stop"

    def open(self, settings: dict[str, Any]) -> None:
        """Prepare the folder. Only rank 0 may call this.

        Raises:
            Stale: The candidates were trained with other settings.
            UserError: There are results, but no settings.
        """
        before = read_json(self._settings, None)
        if before is None and any(self.run.finalist_states.glob("*-*.json")):
            raise UserError(
                f"{self._settings}: missing, so nobody knows how the {self.trained} were trained; remove "
                f"{self.run.finalist_states} to train them again"
            )
        now = json.loads(to_json(settings))
        if before is not None and before != now:
            raise self.stale(changes(before, now))
        write_json(self._settings, now)
        self.stop.unlink(missing_ok=True)
        for leftover in self.run.finalist_states.glob(".*.tmp"):  # of a killed rank
            leftover.unlink()

    def stale(self, changed: str) -> Stale:
        """Return the error about trainings with other settings.

        Args:
            changed: The settings, see ``changes``.
        """
        reason = f"the {self.trained} were trained with {changed}"
        return Stale(
            self.run.path, "search", reason,
            f"{self.run.finalist_states}: {reason}; restore this, or remove the folder to train them again",
        )  # fmt: skip

    def ask_to_stop(self) -> None:
        """Ask the ranks of all groups to stop."""
        self.stop.touch()

    def outcome(self, name: str, step: int) -> Outcome | None:
        """Return the result of a candidate at a step, or None."""
        path = self._outcome(name, step)
        data = read_json(path, None)
        if data is None:
            return None
        try:
            loss = data["loss"]
            return Outcome(**data | {"loss": math.nan if loss is None else loss})  # JSON has no nan
        except (KeyError, TypeError):
            raise UserError(f"{path}: not a result of a training; remove it to train this candidate again") from None

    def add(self, name: str, outcome: Outcome) -> None:
        """Write a result."""
        write_json(self._outcome(name, outcome.step), asdict(outcome))

    def save(self, name: str, trainer: PlainTrainer, progress: Progress) -> None:
        """Write the state of a training."""
        state = trainer.state_dict()
        tensors = {f"model/{key}": value for key, value in state["model"].items()}
        tensors |= {f"averages/{key}": value for key, value in state["averages"].items()}
        for i, moments in state["adamw"]["state"].items():
            tensors |= {f"adamw/{i}/{key}": value for key, value in moments.items()}
        tensors["loss"] = state["loss"]
        others = {key: state[key] for key in ("step", "scale", "skipped")}
        write_tensors(
            self._state(name), {key: value.detach().cpu().contiguous() for key, value in tensors.items()},
            {"state": json.dumps(others), "progress": json.dumps(asdict(progress))},
        )  # fmt: skip

    def saved_step(self, name: str) -> int:
        """Return the step of the saved state; 0 if there is none."""
        return self._metadata(name)["state"]["step"] if self._state(name).exists() else 0

    def load(self, name: str, trainer: PlainTrainer) -> Progress:
        """Restore a training from its state. The trainer must be new.

        Raises:
            UserError: The file is missing or damaged.
        """
        give_up = time.monotonic() + VISIBLE
        while not self._state(name).exists() and time.monotonic() < give_up:
            time.sleep(0.5)
        metadata = self._metadata(name)
        state: dict[str, Any] = {"model": {}, "averages": {}, **metadata["state"]}
        moments: dict[int, dict[str, Any]] = {}
        for key, value in load_file(self._state(name)).items():
            kind, _, rest = key.partition("/")
            if kind == "adamw":
                i, _, moment = rest.partition("/")
                moments.setdefault(int(i), {})[moment] = value
            elif kind == "loss":
                state["loss"] = value
            else:
                state[kind][rest] = value
        state["adamw"] = {"state": moments, "param_groups": trainer.adamw.state_dict()["param_groups"]}
        trainer.load_state_dict(state)
        return Progress(**metadata["progress"])

    def remove(self, name: str) -> None:
        """Delete the state of a candidate that dropped out."""
        self._state(name).unlink(missing_ok=True)

    def remove_all(self) -> None:
        """Delete all states, also those of candidates that an earlier start trained."""
        for path in self.run.finalist_states.glob("*.safetensors"):
            path.unlink()

    def write_rows(self, rows: list[Row]) -> None:
        """Write ``finalists.jsonl``: one line per candidate and finished rung."""
        write_text(self.run.finalists, "".join(f"{to_json(row)}\n" for row in rows))

    def _outcome(self, name: str, step: int) -> Path:
        return self.run.finalist_states / f"{name}-{step}.json"

    def _state(self, name: str) -> Path:
        return self.run.finalist_states / f"{name}.safetensors"

    def _metadata(self, name: str) -> dict[str, Any]:
        try:
            check_regular(self._state(name))
            with safe_open(self._state(name), "pt") as file:
                return {key: parse_json_line(value) for key, value in file.metadata().items()}
        except (OSError, SafetensorError, ValueError, AttributeError):
            raise UserError(
                f"{self._state(name)}: missing or damaged; remove it to train this candidate again"
            ) from None


def changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Return the settings that differ, with both values."""
    names = [name for name in before | now if before.get(name) != now.get(name)]
    return ", ".join(f"{name}={_short(before.get(name))} (now {_short(now.get(name))})" for name in names)


def _short(value: Any) -> str:
    """Format a value for a message: digests are long."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:16]}..."


def name_of(spec: SubnetSpec) -> str:
    """Return the name of a candidate in file names."""
    return hashlib.sha256(spec.key().encode()).hexdigest()[:16]
