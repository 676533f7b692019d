"""Read the parameters in a checkpoint in one process, without an engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from vitas_ds.errors import UserError
from vitas_ds.run.files import write_tensors
from vitas_ds.training import checkpoint_deepspeed
from vitas_ds.training.checkpoint_files import verify


class Reader:
    """Access to the parameters in a checkpoint, independent of the ranks and ZeRO stage that saved it."""

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
        """Fill the one-dimensional ``out`` with the elements of a parameter from ``start`` on."""
        for file, source, length in self.manifest["parts"][name]:
            low, high = max(start, source), min(start + out.numel(), source + length)
            if low < high:
                stored = self._file(file).get_slice(f"{kind}/{name}")
                out[low - start : high - start].copy_(stored[low - source : high - source])

    def buffer(self, name: str) -> Tensor:
        """Read a buffer of the network."""
        return self._file("shard-00000.safetensors").get_tensor(f"constant/{name}")

    def parameters(self, kind: str) -> Iterator[tuple[str, Tensor]]:
        """Yield the name and the whole tensor of every parameter."""
        for name, shape in self.shapes.items():
            tensor = torch.empty(shape, dtype=torch.float32)
            self.read(kind, name, 0, tensor.view(-1))
            self._open.clear()  # an open file keeps all it has read in memory
            yield name, tensor


def consolidate(path: Path, ema: bool = False) -> dict[str, Tensor]:
    """Return the state dict of the network (fp32, on the CPU) from a checkpoint of any ZeRO stage.

    Args:
        path: Folder of the checkpoint, in our format or in that of DeepSpeed.
        ema: Read the averaged weights.

    Raises:
        UserError: The checkpoint is damaged, or has no averaged weights.
    """
    if tag := checkpoint_deepspeed.find(Path(path)):
        if ema:
            raise UserError(f"{tag}: no averaged weights, a checkpoint of DeepSpeed has none; set ema_decay=0")
        return checkpoint_deepspeed.consolidate(tag)
    problem = verify(path)
    if problem is not None:
        raise UserError(f"damaged checkpoint: {problem}")
    reader = Reader(path)
    if ema and "ema" not in reader.manifest["kinds"]:
        raise UserError(f"{path}: no averaged weights; it was trained with ema_decay=0")
    weights = dict(reader.parameters("ema" if ema else "weight"))
    return weights | {name: reader.buffer(name) for name in reader.manifest["constants"]}


def write_consolidated(path: Path, out: Path, ema: bool = False) -> None:
    """Write ``consolidate(path, ema)`` to a safetensors file, atomically."""
    write_tensors(Path(out), consolidate(path, ema))
