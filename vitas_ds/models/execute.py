"""Run a network whose parameters are stored in modules: pack them, then call the plain net.

Without ZeRO 3, one pack serves the whole step. ZeRO 3 gathers the parameters of a module for the time of its forward
pass, so each part is packed there.
"""
# S sides, B batch, H height, W width

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.models import net
from vitas_ds.models.net import LayerOptions
from vitas_ds.models.pack import Packed, pack, pack_sides
from vitas_ds.models.plan import Part


def call_directly(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function: the parameters need no gathering, or the caller has gathered them."""
    return function(*args)


@dataclass(frozen=True)
class Stored:
    """A part of a network, and where its parameters are.

    Attributes:
        part: What to pack.
        sources: Returns the parameters.
        owner: Calls a function while the parameters are gathered.
    """

    part: Part
    sources: Callable[[], Sequence[Tensor]]
    owner: Callable[..., Any] = call_directly


def compute_dtype(parameter: Tensor) -> torch.dtype:
    """Return the dtype of autocast if it is enabled for the device of the parameter, else that of the parameter."""
    device = parameter.device
    return torch.get_autocast_dtype(device.type) if _autocast_enabled(device) else parameter.dtype


def _autocast_enabled(device: torch.device) -> bool:
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def pad_multiple(device: torch.device) -> int:
    """Return the multiple to which widths are padded: GPUs multiply matrices of other widths with slow kernels."""
    return 8 if device.type == "cuda" else 1


def execute(
    images: Tensor, spec: SubnetSpec, layers: list[LayerOptions], stored: Sequence[Stored], dtype: torch.dtype,
    recompute: bool = False, block: Callable[..., Any] = net.block, separate: bool = False,
) -> Tensor:  # fmt: skip
    """Compute the logits [S, B, classes] of images [B, 3, H, W].

    Args:
        images: The images.
        spec: The network.
        layers: Options of the active layers.
        stored: The stem, the active layers and the head.
        dtype: Compute dtype.
        recompute: Keep only the inputs of blocks for the backward pass (gradient checkpointing).
        block: ``net.block``, or the compiled ``net.closed_block``.
        separate: See ``net.forward``; for networks of one side.
    """
    if hasattr(stored[0].sources()[0], "ds_id"):  # ZeRO 3

        def call(i: int, function: Callable[..., Any], *args: Any) -> Any:
            return stored[i].owner(partial(_pack_and_call, stored[i], dtype, function), *args)

        return run(images, spec, layers, call, recompute, block, separate)
    return prepare(spec, layers, stored, dtype, recompute, block, separate)(images)


def prepare(
    spec: SubnetSpec, layers: list[LayerOptions], stored: Sequence[Stored], dtype: torch.dtype,
    recompute: bool = False, block: Callable[..., Any] = net.block, separate: bool = False,
) -> Callable[[Tensor], Tensor]:  # fmt: skip
    """Pack a network and return its forward pass, see ``execute``. The parameters must not be partitioned."""
    sides = _pack_all([s.part for s in stored], [s.sources() for s in stored], dtype)

    def forward(images: Tensor) -> Tensor:
        logits = [run(images, spec, layers, partial(_call, packed), recompute, block, separate) for packed in sides]
        return logits[0] if len(logits) == 1 else torch.cat(logits)

    return forward


def _pack_all(parts: Sequence[Part], sources: Sequence[Sequence[Tensor]], dtype: torch.dtype) -> list[list[Packed]]:
    """Return the packed parts of each group of sides computed together.

    Frozen parts in front of the others are packed alone: the backward pass then ends behind them.
    """
    trained = [any(tensor.requires_grad for tensor in group) for group in sources]
    first = trained.index(True) if True in trained else 0
    cuts = (slice(first), slice(first, None)) if first else (slice(None),)
    # CPUs compute one side after the other: their caches are small, and this saves copies into stacked tensors
    on_cpu = sources[0][0].device.type == "cpu"
    packs = [pack_sides(parts[c], sources[c], dtype) if on_cpu else [pack(parts[c], sources[c], dtype)] for c in cuts]
    return [[part for pieces in side for part in pieces] for side in zip(*packs, strict=True)]


def run(
    images: Tensor, spec: SubnetSpec, layers: list[LayerOptions], call: net.Apply, recompute: bool = False,
    block: Callable[..., Any] = net.block, separate: bool = False,
) -> Tensor:  # fmt: skip
    """Call the plain net outside of autocast: packed tensors have the compute dtype. See ``execute``."""

    def apply(i: int, function: Callable[..., Any], *args: Any) -> Any:
        if function is not net.block:
            return call(i, function, *args)
        if not recompute:
            return call(i, block, *args)
        x, branch, *options = args  # add the branch first: the backward pass then keeps one tensor instead of two
        x = x if branch is None else x + branch
        return checkpoint(call, i, block, x, None, *options, use_reentrant=False)

    if not _autocast_enabled(images.device):
        return net.forward(images, spec, layers, apply, separate)
    with torch.autocast(images.device.type, enabled=False):
        return net.forward(images, spec, layers, apply, separate)


def _call(packed: list[Packed], i: int, function: Callable[..., Any], *args: Any) -> Any:
    return function(packed[i], *args)


def _pack_and_call(stored: Stored, dtype: torch.dtype, function: Callable[..., Any], *args: Any) -> Any:
    (packed,) = pack([stored.part], [stored.sources()], dtype)
    return function(packed, *args)
