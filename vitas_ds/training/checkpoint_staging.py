"""Copies of an engine's tensors in host memory: a save writes them while training continues."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vitas_ds.engine.engine import Engine


class Staging:
    """Host memory for one checkpoint of this rank, allocated by the first ``copy`` and reused by later ones.

    For a GPU it is pinned, so the copies are queued like kernels and the loop does not wait for them.
    """

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    @torch.no_grad()
    def copy(self, engine: Engine) -> tuple[dict[str, Tensor], Callable[[], object]]:
        """Copy the state of this rank. The previous copy must no longer be in use.

        Returns:
            This rank's piece of each kind of each named tensor, and on rank 0 the buffers, by their names in a shard;
            and a function that waits until the copies are complete.
        """
        tensors = {}
        for kind in engine.kinds:
            for index, (owner, tensor) in enumerate(engine.tensors(kind).items()):
                flat = self._stage(f"{kind}/{index}", tensor).view(-1)
                for piece in engine.owned[owner]:
                    tensors[f"{kind}/{piece.name}"] = flat[piece.offset : piece.offset + piece.length]
        if engine.ranks.is_main:
            for name, tensor in engine.buffers().items():
                tensors[f"constant/{name}"] = self._stage(f"constant/{name}", tensor)
        return tensors, _wait(engine.ranks.device)

    @torch.no_grad()
    def copy_files(self, files: dict[str, Any], device: torch.device) -> tuple[dict[str, Any], Callable[[], object]]:
        """Copy the content of DeepSpeed's files, containers with tensors and other values.

        Returns:
            The copy, and a function that waits until it is complete.
        """
        copies = self._copy_value("", files)
        return copies, _wait(device)

    def _copy_value(self, name: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value if value.device.type == "meta" else self._stage(name, value)
        if type(value) in (dict, OrderedDict):
            return type(value)((key, self._copy_value(f"{name}/{key}", inner)) for key, inner in value.items())
        if type(value) in (list, tuple):
            return type(value)(self._copy_value(f"{name}/{i}", inner) for i, inner in enumerate(value))
        return copy.deepcopy(value)

    def _stage(self, name: str, tensor: Tensor) -> Tensor:
        if name not in self._memory:
            pinned = tensor.device.type == "cuda"
            self._memory[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
        return self._memory[name].copy_(tensor.detach(), non_blocking=True)


def _wait(device: torch.device) -> Callable[[], object]:
    """Return a function that waits for the copies queued so far."""
    if device.type != "cuda":
        return lambda: None
    event = torch.cuda.Event()
    event.record()
    return event.synchronize
