"""The folders of checkpoints: list, verify and delete them. No engine is needed.

    DIR/step-00000100/
        manifest.json                size and SHA-256 of every file; shape of every parameter, and the place of its
                                     parts in the shards; SHA-256 of the manifest itself
        state.json                   step count of each unit, loss scale, state of the training loop
        shard-00000.safetensors ...  one per rank: its part of weight, exp_avg, exp_avg_sq (and ema) of the parameters

A folder without the prefix ``step-`` is not a checkpoint: ``saving-step-...`` is being written or was left by a killed
job, ``old-step-...`` is being deleted.
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

FORMAT = 2  # format 1 has no SHA-256 of the manifest; it can be read as well


def list_checkpoints(directory: Path) -> list[Path]:
    """Return the published checkpoints, newest first, without verifying them."""
    paths = [path for path in Path(directory).glob("step-*") if path.is_dir() and path.name[5:].isdigit()]
    return sorted(paths, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """Return the step of a checkpoint, from the name of its folder."""
    return int(path.name[5:])


def newest(directory: Path) -> Path | None:
    """Return the newest intact checkpoint, or None. All ranks must call this.

    Warns about each newer one that is damaged, with the name of the file.
    """

    def search() -> tuple[Path | None, list[str]]:
        problems: list[str] = []
        for path in list_checkpoints(directory):
            problem = verify(path)
            if problem is None:
                return path, problems
            problems.append(problem)
        return None, problems

    path, problems = comm.from_main(search)
    for problem in problems:
        warnings.warn(f"checkpoint skipped: {problem}", stacklevel=2)
    return path


def best(directory: Path) -> Path | None:
    """Return the checkpoint with the lowest loss (the newest of equal ones), without verifying it.

    None if no checkpoint has a loss.
    """
    losses = {path: _loss(path) for path in list_checkpoints(directory)}
    return min((path for path in losses if math.isfinite(losses[path])), key=lambda path: losses[path], default=None)


def _loss(path: Path) -> float:
    try:
        return float(json.loads((path / "state.json").read_text())["loss"])
    except (OSError, ValueError, KeyError, TypeError):  # damaged, or saved without a loss
        return math.nan


def prune(directory: Path, keep: int, every: int = 0, keep_best: bool = False) -> None:
    """Delete old checkpoints. Only rank 0 may call this.

    Args:
        directory: Folder of the checkpoints.
        keep: Number of newest checkpoints to keep. 0 keeps all.
        every: Also keep checkpoints whose step is a multiple of this. 0 to disable.
        keep_best: Also keep the checkpoint with the lowest loss.
    """
    if keep <= 0:
        return
    kept = best(directory) if keep_best else None
    for path in list_checkpoints(directory)[keep:]:
        if path != kept and (not every or step_of(path) % every):
            remove(path)


def remove(path: Path) -> None:
    """Delete a checkpoint. Renamed first: if the job is killed, no incomplete ``step-...`` folder is left."""
    old = path.with_name(f"old-{path.name}")
    shutil.rmtree(old, ignore_errors=True)
    path.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def verify(path: Path) -> str | None:
    """Compare a checkpoint with the sizes and digests in its manifest.

    Returns:
        The problem, with the name of the file; None if the checkpoint is intact.
    """
    file = Path(path) / "manifest.json"
    try:
        manifest = json.loads(file.read_text())
        stored = manifest.pop("sha256", None)
        entries = [(Path(path) / name, size, digest) for name, (size, digest) in manifest["files"].items()]
    except FileNotFoundError:
        return f"{file} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{file} is not a manifest"
    if manifest.get("format") not in (1, FORMAT):
        return f"{file} has format {manifest.get('format')}; supported: 1, {FORMAT}"
    if (stored or manifest["format"] > 1) and stored != manifest_digest(manifest):
        return f"{file} was changed: its SHA-256 does not match"
    problems = (_verify_file(*entry) for entry in entries)
    return next((problem for problem in problems if problem is not None), None)


def _verify_file(file: Path, size: int, digest: str) -> str | None:
    if not file.is_file():
        return f"{file} is missing"
    if file.stat().st_size != size:
        return f"{file} has {file.stat().st_size} bytes, expected {size}"
    if file_digest(file) != digest:
        return f"{file} was changed: its SHA-256 does not match the manifest"
    return None


def manifest_digest(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest without its own entry ``sha256``."""
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
