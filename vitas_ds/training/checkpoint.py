"""Checkpoints that are whole or absent, and independent of ZeRO stage and number of ranks.

    DIR/step-00000100/
        manifest.json                size and SHA-256 of every file, shape of every parameter and where its parts lie;
                                     and a SHA-256 of itself
        state.json                   unit clocks, loss scale, and what the training loop keeps
        shard-00000.safetensors ...  one a rank: its elements of weight, exp_avg, exp_avg_sq (and ema) of the parameters

All ranks write aside; when every file is on disk, one rename publishes them. A folder whose name does not start with
``step-`` is no checkpoint. Reading one runs no code from it: there is no pickle. All ranks must see the same DIR.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vitas_ds.distributed import comm
from vitas_ds.engine.engine import Engine
from vitas_ds.errors import UserError

FORMAT = 2  # 1: the manifest has no digest of its own; read as well
Part = tuple[str, int, int]  # file, first element of the parameter, number of elements


def save(
    engine: Engine, directory: Path, step: int, state: dict[str, Any], keep: int = 0, every: int = 0,
    loss: float | None = None, keep_best: bool = False,
) -> Path:  # fmt: skip
    """Write and publish the checkpoint of a step; all ranks call it. Returns its folder.

    Args:
        state: the training loop's own, anything that JSON holds.
        keep: if above 0, checkpoints beyond the ``keep`` newest are removed ...
        every: ... but for those whose step is a multiple of this ...
        keep_best: ... and for the one of the lowest ``loss``, see ``best``.
        loss: how good the network is; lower is better.

    Raises:
        OSError: a rank could not write (on all ranks alike); nothing was published.
    """
    target = Path(directory) / f"step-{step:08d}"
    aside = target.with_name(f"saving-{target.name}")
    comm.from_main(lambda: _fresh(aside))
    written = comm.gather(_write_shard(engine, aside))
    for rank, row in enumerate(written):
        if "error" in row:
            raise OSError(f"checkpoint of step {step}: rank {rank} could not write: {row['error']}")
    comm.from_main(lambda: _publish(engine, aside, target, step, state, written, loss))
    comm.from_main(lambda: prune(directory, keep, every, keep_best))
    return target


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _write_shard(engine: Engine, folder: Path) -> dict[str, Any]:
    """This rank's file, what it holds, and its digest; or the error that kept it from being written."""
    rank = engine.ranks.rank
    if engine.stage == 0 and rank > 0:  # all ranks have the same
        return {"parts": {}, "files": {}}
    path = folder / f"shard-{rank:05d}.safetensors"
    tensors = {}
    for kind in engine.kinds:
        for owner, tensor in engine.tensors(kind).items():
            flat = tensor.detach().view(-1)
            for piece in engine.owned[owner]:
                part = flat[piece.offset : piece.offset + piece.length]
                tensors[f"{kind}/{piece.name}"] = part.clone() if part.device.type == "cpu" else part.cpu()
    if rank == 0:
        tensors |= {f"constant/{name}": tensor.detach().cpu() for name, tensor in engine.constants().items()}
    parts = {p.name: (path.name, p.source, p.length) for pieces in engine.owned.values() for p in pieces}
    try:
        save_file(tensors, path)
        return {"parts": parts, "files": {path.name: _flush(path)}}
    except (OSError, SafetensorError) as error:
        return {"error": str(error)}


def _publish(
    engine: Engine, aside: Path, target: Path, step: int, state: dict[str, Any], written: list[dict[str, Any]],
    loss: float | None,
) -> None:  # fmt: skip
    """Rank 0: state, manifest, and the rename."""
    files = {name: entry for row in written for name, entry in row["files"].items()}
    missing = [name for name in files if not (aside / name).is_file()]
    if missing:
        raise UserError(f"{aside}: rank 0 does not see {missing[0]}; a run's folder must be shared by all nodes")
    (aside / "state.json").write_text(json.dumps({"engine": engine.state(), "loop": state, "loss": loss}))
    files["state.json"] = _flush(aside / "state.json")
    manifest = {
        "format": FORMAT, "step": step, "world_size": len(written), "stage": engine.stage, "kinds": engine.kinds,
        "shapes": engine.shapes, "constants": sorted(engine.constants()),
        "parts": {name: [row["parts"][name] for row in written if name in row["parts"]] for name in engine.shapes},
        "files": files,
    }  # fmt: skip
    (aside / "manifest.json").write_text(json.dumps(manifest | {"sha256": _digest(manifest)}))
    _flush(aside / "manifest.json")
    _flush_folder(aside)
    old = target.with_name(f"old-{target.name}")
    if target.exists():  # a run that fell back past a bad checkpoint has come to its step again
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    aside.rename(target)
    _flush_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


def _flush(path: Path) -> tuple[int, str]:
    """(size, SHA-256) of a file that is on the disk when this returns."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _flush_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def prune(directory: Path, keep: int, every: int = 0, keep_best: bool = False) -> None:
    """Remove all but the ``keep`` newest checkpoints, those of every ``every``-th step, and the best one.

    ``keep`` 0: remove nothing.
    """
    if keep > 0:
        spared = best(directory) if keep_best else None
        for path in found(directory)[keep:]:
            if path != spared and (not every or step_of(path) % every):
                path.rename(doomed := path.with_name(f"old-{path.name}"))
                shutil.rmtree(doomed, ignore_errors=True)


def found(directory: Path) -> list[Path]:
    """The published checkpoints, newest first; not verified."""
    paths = [path for path in Path(directory).glob("step-*") if path.is_dir() and path.name[5:].isdigit()]
    return sorted(paths, key=step_of, reverse=True)


def best(directory: Path) -> Path | None:
    """The checkpoint saved with the lowest loss, the newer one of equals; not verified. None: none tells its loss."""
    losses = {path: _loss(path) for path in found(directory)}
    return min((path for path in losses if math.isfinite(losses[path])), key=lambda path: losses[path], default=None)


def _loss(path: Path) -> float:
    try:
        return float(json.loads((path / "state.json").read_text())["loss"])
    except (OSError, ValueError, KeyError, TypeError):  # damaged, or its loss is not known
        return math.nan


def step_of(path: Path) -> int:
    """The step that a checkpoint's folder is named after."""
    return int(path.name[5:])


def newest(directory: Path) -> Path | None:
    """The newest checkpoint that is whole, or None. Warns of each newer one, naming the bad file. All ranks call it."""

    def search() -> tuple[Path | None, list[str]]:
        faults: list[str] = []
        for path in found(directory):
            fault = verify(path)
            if fault is None:
                return path, faults
            faults.append(fault)
        return None, faults

    path, faults = comm.from_main(search)
    for fault in faults:
        warnings.warn(f"checkpoint passed over: {fault}", stacklevel=2)
    return path


def verify(path: Path) -> str | None:
    """What is wrong with a checkpoint, with the name of the file; None if it is as it was written."""
    try:
        manifest = json.loads((Path(path) / "manifest.json").read_text())
        told = manifest.pop("sha256", None)
        entries = [(Path(path) / name, size, digest) for name, (size, digest) in manifest["files"].items()]
    except FileNotFoundError:
        return f"{path}/manifest.json is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{path}/manifest.json is not what was written"
    if manifest.get("format") not in (1, FORMAT):
        return f"{path}/manifest.json: format {manifest.get('format')} is not one read here (1, {FORMAT})"
    if (told or manifest["format"] > 1) and told != _digest(manifest):
        return f"{path}/manifest.json was altered: its SHA-256 is not the one in it"
    for file, size, digest in entries:
        if not file.is_file():
            return f"{file} is missing"
        if file.stat().st_size != size:
            return f"{file} has {file.stat().st_size} bytes, {size} were written"
        with file.open("rb") as handle:
            if hashlib.file_digest(handle, "sha256").hexdigest() != digest:
                return f"{file} was altered: its SHA-256 is not the one in the manifest"
    return None


def load(engine: Engine, path: Path) -> dict[str, Any]:
    """Put a checkpoint into the engine; returns the training loop's state. All ranks call it.

    It may come from another ZeRO stage or number of ranks. ``newest`` has verified it; ``verify`` one from elsewhere.

    Raises:
        UserError: the checkpoint is of another network.
    """
    reader = Reader(path)
    check_shapes(reader.path, reader.shapes, engine.shapes)
    for kind in engine.kinds:
        stored = kind if kind in reader.manifest["kinds"] else "weight"  # averages that begin here
        for owner, tensor in engine.tensors(kind).items():
            flat = tensor.detach().view(-1)
            for piece in engine.owned[owner]:
                reader.read(stored, piece.name, piece.source, flat[piece.offset : piece.offset + piece.length])
    for name, tensor in engine.constants().items():
        tensor.copy_(reader.constant(name))
    state = json.loads((Path(path) / "state.json").read_text())
    engine.restore(state["engine"])
    return state["loop"]


def check_shapes(path: Path, theirs: dict[str, tuple[int, ...]], ours: dict[str, tuple[int, ...]]) -> None:
    """Raise ``UserError`` unless the parameters in ``path`` are those of the network here, by name and shape."""
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            raise UserError(
                f"{path}: of another network: {name} is {theirs.get(name, 'absent')} there "
                f"and {ours.get(name, 'absent')} here"
            )


class Reader:
    """Access to the parameters in a checkpoint, wherever the ranks that wrote it put their parts."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.manifest = json.loads((self.path / "manifest.json").read_text())
        self.shapes = {name: tuple(shape) for name, shape in self.manifest["shapes"].items()}
        self._open: dict[str, Any] = {}

    def _file(self, name: str) -> Any:
        if name not in self._open:
            self._open[name] = safe_open(self.path / name, "pt")
        return self._open[name]

    def read(self, kind: str, name: str, start: int, out: Tensor) -> None:
        """Fill the one-dimensional ``out`` with a parameter's elements from ``start`` on."""
        for file, source, length in self.manifest["parts"][name]:
            low, high = max(start, source), min(start + out.numel(), source + length)
            if low < high:
                stored = self._file(file).get_slice(f"{kind}/{name}")
                out[low - start : high - start].copy_(stored[low - source : high - source])

    def constant(self, name: str) -> Tensor:
        """A buffer."""
        return self._file("shard-00000.safetensors").get_tensor(f"constant/{name}")

    def all(self, kind: str) -> Iterator[tuple[str, Tensor]]:
        """Every parameter, whole."""
        for name, shape in self.shapes.items():
            tensor = torch.empty(shape, dtype=torch.float32)
            self.read(kind, name, 0, tensor.view(-1))
            self._open.clear()  # an open file keeps in memory what was read of it
            yield name, tensor


def consolidate(path: Path, ema: bool = False) -> dict[str, Tensor]:
    """The network's state dict (fp32, on the CPU) from a checkpoint of any stage, in one process without an engine.

    Raises:
        UserError: the checkpoint is not whole, or has no averaged weights (``ema``).
    """
    fault = verify(path)
    if fault is not None:
        raise UserError(f"not a whole checkpoint: {fault}")
    reader = Reader(path)
    if ema and "ema" not in reader.manifest["kinds"]:
        raise UserError(f"{path}: no averaged weights; it was trained with ema_decay=0")
    weights = dict(reader.all("ema" if ema else "weight"))
    return weights | {name: reader.constant(name) for name in reader.manifest["constants"]}


def write_consolidated(path: Path, out: Path, ema: bool = False) -> None:
    """``consolidate`` to one safetensors file, whole or absent."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.saving")
    save_file(consolidate(path, ema), aside)
    _flush(aside)
    aside.replace(out)
