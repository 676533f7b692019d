"""Read the parameters in a checkpoint of either format in one process, without an engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from vitas_ds.distributed import comm
from vitas_ds.errors import UserError
from vitas_ds.errors.reading import check_regular
from vitas_ds.run import tensor_digests
from vitas_ds.run.files import write_tensors
from vitas_ds.training import checkpoint_deepspeed
from vitas_ds.training.checkpoint_deepspeed import DeepSpeedReader
from vitas_ds.training.checkpoint_files import find_newest, uses_deepspeed, verify, warn_about_skipped


class Reader:
    """Access to the parameters in a checkpoint of our format, independent of the ranks and ZeRO stage that saved it."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.manifest = json.loads((self.path / "manifest.json").read_text())
        self.shapes = {name: tuple(shape) for name, shape in self.manifest["shapes"].items()}
        self.buffers: list[str] = self.manifest["constants"]
        self.kinds = tuple(self.manifest["kinds"])
        self._open: dict[str, Any] = {}

    def _file(self, name: str) -> Any:
        if name not in self._open:
            check_regular(self.path / name)
            self._open[name] = safe_open(self.path / name, "pt")
        return self._open[name]

    def read(self, kind: str, name: str, start: int, out: Tensor) -> None:
        """Fill the one-dimensional ``out`` with the elements of a parameter from ``start`` on."""
        for file, source, length in self.manifest["parts"][name]:
            low, high = max(start, source), min(start + out.numel(), source + length)
            if low < high:
                stored = self._file(file).get_slice(f"{kind}/{name}")
                out[low - start : high - start].copy_(stored[low - source : high - source])

    def buffer(self, name: str) -> Tensor:
        """Read a buffer of the network."""
        return self._file("shard-00000.safetensors").get_tensor(f"constant/{name}")

    def close(self) -> None:
        """Close the files. An open file keeps all it has read in memory; the next read opens it again."""
        self._open.clear()

    @property
    def state(self) -> dict[str, Any]:
        """State of the training, see ``checkpoint_files``."""
        return json.loads((self.path / "state.json").read_text())


def open_checkpoint(path: Path) -> Reader | DeepSpeedReader:
    """Open a checkpoint in either format. Files with a manifest must have been verified."""
    own = (path / "manifest.json").is_file()
    return Reader(path) if own and not uses_deepspeed(path) else DeepSpeedReader(path, verified=own)


def find_checkpoint(path: Path, field: str = "") -> Path | None:
    """Return the checkpoint at a path, or the newest one in this folder. All ranks must call this.

    Args:
        path: Folder of a checkpoint or of checkpoints, in either format.
        field: The setting, for error messages.

    Returns:
        Folder of the checkpoint; None if there is none.

    Raises:
        UserError: The checkpoint is damaged.
    """
    own = (path / "manifest.json").is_file()
    found, problems = (None, []) if own else find_newest(path)
    if found:
        warn_about_skipped(problems)
        return found
    tag = path if own else checkpoint_deepspeed.find(path)
    if tag and not (tag / "manifest.json").is_file():  # written by another program
        return tag
    problem = comm.from_main(lambda: verify(tag)) if tag else next(iter(problems), None)
    if problem:
        raise UserError(f"{field}: {_damaged(problem)}" if field else _damaged(problem))
    return tag


def _damaged(problem: str) -> str:
    return f"damaged checkpoint: {problem}; restore the file, or use another checkpoint"


def consolidate(path: Path, ema: bool = False) -> dict[str, Tensor]:
    """Return the state dict of the network (fp32, on the CPU) from a checkpoint of any ZeRO stage.

    Args:
        path: Folder of the checkpoint, in our format or in that of DeepSpeed.
        ema: Read the averaged weights.

    Raises:
        UserError: The checkpoint is damaged, or has no averaged weights.
    """
    path = Path(path)
    tag = None if (path / "manifest.json").is_file() else checkpoint_deepspeed.find(path)
    path = tag or path
    if (tag is None or (tag / "manifest.json").is_file()) and (problem := verify(path)):
        raise UserError(_damaged(problem))
    reader = open_checkpoint(path)
    if ema and "ema" not in reader.kinds:
        foreign = isinstance(reader, DeepSpeedReader) and (reader.universal or reader.state is None)
        reason = "a checkpoint of DeepSpeed has none; set ema_decay=0" if foreign else "it was trained with ema_decay=0"
        raise UserError(f"{path}: no averaged weights; {reason}")
    weights = dict(_parameters(reader, "ema" if ema else "weight"))
    return weights | {name: reader.buffer(name) for name in reader.buffers}


def _parameters(reader: Reader | DeepSpeedReader, kind: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the whole tensor of every parameter."""
    for name, shape in reader.shapes.items():
        tensor = torch.empty(shape, dtype=torch.float32)
        reader.read(kind, name, 0, tensor.view(-1))
        reader.close()
        yield name, tensor


def write_consolidated(path: Path, out: Path, ema: bool = False) -> None:
    """Write ``consolidate(path, ema)`` to a safetensors file, atomically."""
    tensors = consolidate(path, ema)
    write_tensors(Path(out), tensors, tensor_digests.metadata_of(tensors))


def read_consolidated(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file with the weights of a network, and compare it with its digest, if it has one.

    Raises:
        UserError: The file was changed, or is a pipe.
        OSError, SafetensorError: It cannot be read.
    """
    check_regular(file)
    tensors = load_file(file)
    tensor_digests.check_digest(file, tensors)
    return tensors
