"""The folders of checkpoints: list, verify and delete them. No engine is needed.

    DIR/step-00000100/
        manifest.json                size and SHA-256 of every file; shape of every parameter, and the place of its
                                     parts in the shards; SHA-256 of the manifest itself
        state.json                   step count of each unit, loss scale, state of the training loop
        shard-00000.safetensors ...  one per rank: its part of weight, exp_avg, exp_avg_sq (and ema) of the parameters

With ``checkpoint.format=deepspeed``, the folder has the files of DeepSpeed in place of the shards, so it is also a tag
of a checkpoint of DeepSpeed (see ``checkpoint_deepspeed``), and ``DIR/latest`` names the newest one.

A folder without the prefix ``step-`` is not a checkpoint: ``saving-step-...`` is being written or was left by a killed
job, ``old-step-...`` is being deleted, ``replaced-step-...`` gets replaced by one of the same step.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import warnings
from pathlib import Path
from typing import Any

from vitas_ds.distributed import comm
from vitas_ds.errors import UserError
from vitas_ds.errors.reading import read_json
from vitas_ds.run.files import file_digest

FORMAT = 2  # format 1 has no SHA-256 of the manifest; it can be read as well
DEEPSPEED = 3  # the files of DeepSpeed in place of shards
LATEST = "latest"  # DeepSpeed's file with the name of the newest checkpoint in its format
FORMATS = (1, FORMAT, DEEPSPEED)
STATE = "state.json"
REPLACED = "replaced-"  # prefix of a checkpoint that a new one of the same step replaces


def list_checkpoints(directory: Path) -> list[Path]:
    """Return the published checkpoints, newest first, without verifying them."""
    paths = [path for path in Path(directory).glob("step-*") if path.is_dir() and path.name[5:].isdigit()]
    return sorted(paths, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """Return the step of a checkpoint, from the name of its folder."""
    return int(path.name[5:])


def newest(directory: Path) -> Path | None:
    """Return the newest intact checkpoint, or None. All ranks must call this.

    Warns about newer, damaged ones, with the names of the files.

    Raises:
        UserError: There are checkpoints, and none is intact.
    """
    path, problems = find_newest(directory)
    if path is None and problems:
        raise UserError(
            f"{directory}: no checkpoint is intact: {problems[0]}; restore the file, or move the folder to start from "
            "scratch"
        )
    warn_about_skipped(problems)
    return path


def find_newest(directory: Path) -> tuple[Path | None, list[str]]:
    """Return the newest intact checkpoint, or None, and the problem of each newer one. All ranks must call this."""

    def search() -> tuple[Path | None, list[str]]:
        problems: list[str] = []
        for path in list_checkpoints(directory):
            problem = verify(path)
            if problem is None:
                return path, problems
            problems.append(problem)
        return None, problems

    return comm.from_main(search)


def warn_about_skipped(problems: list[str]) -> None:
    """Warn about each damaged checkpoint."""
    for problem in problems:
        warnings.warn(f"checkpoint skipped: {problem}", stacklevel=3)


def best(directory: Path, until: float = math.inf) -> Path | None:
    """Return the checkpoint with the highest accuracy (the newest of equal ones). It verifies ``state.json`` only.

    Without measured accuracies, it is the one with the lowest loss. None if no checkpoint has one of them. Warns about
    each checkpoint with a damaged state, which is skipped. Checkpoints after step ``until`` do not count.
    """
    problems = {path: verify(path, STATE) for path in list_checkpoints(directory) if step_of(path) <= until}
    warn_about_skipped([problem for problem in problems.values() if problem is not None])
    states = {path: _state(path) for path, problem in problems.items() if problem is None}
    for rate in (_error, _loss):
        rated = {path: rate(state) for path, state in states.items()}
        if found := [path for path in rated if math.isfinite(rated[path])]:
            return min(found, key=lambda path: rated[path])
    return None


def _state(path: Path) -> Any:
    try:
        return read_json(path / STATE)
    except (OSError, UserError):
        return {}


def _error(state: Any) -> float:
    """Return 1 - accuracy, if it was measured at the step of the checkpoint, else nan."""
    try:
        loop = state["loop"]
        return 1 - float(loop["accuracy"]) if loop["accuracy_step"] == loop["step"] else math.nan
    except (ValueError, KeyError, TypeError):
        return math.nan


def _loss(state: Any) -> float:
    try:
        return float(state["loss"])
    except (ValueError, KeyError, TypeError):  # damaged, or saved without a loss
        return math.nan


def prune(directory: Path, keep: int, every: int = 0, keep_best: bool = False, step: float = math.inf) -> None:
    """Delete old checkpoints. Only rank 0 may call this.

    Later ones than that of ``step`` are neither counted nor deleted. A training that resumed from an older checkpoint,
    because they are damaged, will replace them.

    Args:
        directory: Folder of the checkpoints.
        keep: Number of newest checkpoints to keep. 0 keeps all.
        every: Also keep checkpoints whose step is a multiple of this. 0 to disable.
        keep_best: Also keep the best checkpoint, see ``best``.
        step: Step of the checkpoint just saved.
    """
    if keep <= 0:
        return
    kept = best(directory, step) if keep_best else None
    for path in [path for path in list_checkpoints(directory) if step_of(path) <= step][keep:]:
        if path != kept and (not every or step_of(path) % every):
            remove(path)


def keep_only(path: Path) -> None:
    """Delete all other checkpoints in the folder of one, newer ones too. Only rank 0 may call this."""
    for other in list_checkpoints(path.parent):
        if other != path:
            remove(other)


def remove(path: Path) -> None:
    """Delete a checkpoint. Renamed first: if the job is killed, no incomplete ``step-...`` folder is left."""
    forget_latest(path)
    old = path.with_name(f"old-{path.name}")
    shutil.rmtree(old, ignore_errors=True)
    path.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def clean_up(directory: Path) -> None:
    """Give a checkpoint that a killed job was replacing its name again, and delete leftovers. Rank 0 calls this."""
    for old in Path(directory).glob(f"{REPLACED}step-*"):
        if not (target := old.with_name(old.name.removeprefix(REPLACED))).exists():
            old.rename(target)
    remove_leftovers(directory)


def remove_leftovers(directory: Path) -> None:
    """Delete what a killed job left: checkpoints that it was writing, deleting or replacing. Rank 0 calls this."""
    for pattern in ("saving-*", "old-step-*", f"{REPLACED}step-*"):
        for left in Path(directory).glob(pattern):
            shutil.rmtree(left, ignore_errors=True)


def forget_latest(path: Path) -> None:
    """Delete ``latest`` if it names a checkpoint that is deleted, or replaced by one in our format."""
    latest = path.parent / LATEST
    if latest.is_file() and latest.read_text(errors="replace").strip() == path.name:
        latest.unlink()


def verify(path: Path, only: str | None = None) -> str | None:
    """Compare a checkpoint with the sizes and digests in its manifest.

    Args:
        path: Folder of the checkpoint.
        only: The one file to compare; None for all.

    Returns:
        The problem, with the name of the file; None if the checkpoint is intact.
    """
    file = Path(path) / "manifest.json"
    try:
        manifest = read_json(file)
        stored = manifest.pop("sha256", None)
        files = manifest["files"] if only is None else {only: manifest["files"][only]}
        entries = [(Path(path) / name, size, digest) for name, (size, digest) in files.items()]
    except FileNotFoundError:
        return f"{file} is missing"
    except (UserError, ValueError, KeyError, TypeError, AttributeError):
        return f"{file} is not a manifest"
    if manifest.get("format") not in FORMATS:
        return f"{file} has format {str(manifest.get('format'))[:20]}; supported: {', '.join(map(str, FORMATS))}"
    if (stored or manifest["format"] > 1) and stored != manifest_digest(manifest):
        return f"{file} was changed: its SHA-256 does not match"
    problems = (_verify_file(*entry) for entry in entries)
    return next((problem for problem in problems if problem is not None), None)


def uses_deepspeed(path: Path) -> bool:
    """Return whether an intact checkpoint has the files of DeepSpeed."""
    return json.loads((Path(path) / "manifest.json").read_text())["format"] == DEEPSPEED


def _verify_file(file: Path, size: int, digest: str) -> str | None:
    if not file.is_file():
        return f"{file} is missing"
    if file.stat().st_size != size:
        return f"{file} has {file.stat().st_size} bytes, its manifest.json expects {size}"
    if file_digest(file) != digest:
        return f"{file} was changed: its SHA-256 does not match manifest.json"
    return None


def manifest_digest(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest without its own entry ``sha256``."""
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
