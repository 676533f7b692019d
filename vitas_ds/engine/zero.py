"""Where ZeRO keeps each parameter: map the tensors owned by a rank to ranges of named tensors.

This is the only file that uses internals of the ZeRO optimizers (DeepSpeed 0.19). The optimizer and the checkpoints
see only ``Piece``, so they do not depend on the ZeRO stage.

Stages 2 and 3 take their steps in DeepSpeed, except for the norm. Of stage 1, the engine uses only the partition of the
weights and the collective that gathers them (``update_model_weights``). DeepSpeed's step of stage 1 copies each
gradient twice, allocates zeros for each unused parameter, and computes the norm of each gradient
separately: 332 operator calls for 84 parameters, of which 20 are used. Its reduction leaves the whole gradients on
every rank anyway. From them, the engine computes the norm and updates its part of the weights in 8 calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vitas_ds.engine.optimizer import Piece

Pieces = dict[Tensor, list[Piece]]


def pieces(optimizer: Any, stage: int, whole: Pieces, rank: int) -> Pieces:
    """Return the fp32 tensors that this rank updates, with the pieces of named tensors in each.

    Args:
        optimizer: The ZeRO optimizer of the DeepSpeed engine (stages 1 to 3; unused in stage 0).
        stage: ZeRO stage.
        whole: Pieces of the parameters.
        rank: This rank.
    """
    if stage == 0:
        return whole
    if stage == 3:
        return _stage3_pieces(optimizer, whole, rank)
    return _stage12_pieces(optimizer, whole, rank)


def _stage12_pieces(optimizer: Any, whole: Pieces, rank: int) -> Pieces:
    """Stages 1 and 2: each group is flattened, padded, and split into one equal part per rank."""
    owned: Pieces = {}
    for i, flat in enumerate(optimizer.single_partition_of_fp32_groups):
        first, last = rank * flat.numel(), (rank + 1) * flat.numel()
        owned[flat] = []
        for param, start in zip(
            optimizer.round_robin_bit16_groups[i], optimizer.round_robin_bit16_offsets[i], strict=True
        ):
            low, high = max(first, start), min(last, start + param.numel())
            owned[flat] += _cut(whole[param], low - start, high - start, low - first)
    return owned


def _stage3_pieces(optimizer: Any, whole: Pieces, rank: int) -> Pieces:
    """Stage 3: each parameter is split into one equal part per rank (the last one padded); parts are concatenated."""
    owned: Pieces = {}
    for flat, params in zip(optimizer.fp32_partitioned_groups_flat, optimizer.fp16_groups, strict=True):
        owned[flat], offset = [], 0
        for param in params:
            part = param.partition_numel()
            owned[flat] += _cut(whole[param], rank * part, min((rank + 1) * part, param.ds_numel), offset)
            offset += part
    return owned


def _cut(whole: list[Piece], low: int, high: int, offset: int) -> Iterator[Piece]:
    """Yield the pieces of the elements [low, high) of a parameter; the first element is at ``offset``."""
    for piece in whole:
        start, end = max(low, piece.offset), min(high, piece.offset + piece.length)
        if start < end:
            yield replace(piece, source=start - piece.offset, offset=offset + start - low, length=end - start)


def fuse_norm(optimizer: Any) -> None:
    """Compute the norm of the gradients of stages 2 and 3 in a few calls, instead of two per parameter.

    ZeRO checks the result: if it is not finite, the step is skipped.
    """

    def norm(gradients: list[Tensor], params: list[nn.Parameter], norm_type: float = 2) -> Tensor:
        square = nn.utils.get_total_norm(gradients).square()
        dist.all_reduce(square, group=optimizer.dp_process_group)
        return square.sqrt()

    optimizer.get_grad_norm_direct = norm


def update_model_weights(optimizer: Any, stage: int) -> None:
    """Copy the owned tensors of all ranks into the model: after a step of stage 1, or after loading a checkpoint."""
    if stage in (1, 2):
        optimizer.update_lp_params()
    elif stage == 3:
        for i in range(len(optimizer.fp16_groups)):
            optimizer._reassign_or_swap_out_partitioned_parameters(i)
        # Small parameters stay gathered on every rank. Without this, they keep their old values.
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)


def clear_stale_gradients(optimizer: Any, stage: int, offload: bool) -> None:
    """Zero the gradients and norms that ZeRO-3 and offload keep after a step.

    ZeRO overwrites them only for parameters in the next backward pass. Without this, the gradients of unused
    weights count in the norm of the next step, and the step is clipped too much.
    """
    if stage == 3:
        optimizer.grad_partitions_flat_buffer.zero_()
    if offload:
        optimizer.norm_for_param_grads.clear()
        flats = optimizer.fp32_partitioned_groups_flat if stage == 3 else optimizer.single_partition_of_fp32_groups
        kept = [*(flat.grad for flat in flats), *getattr(optimizer, "accumulated_grads_in_cpu", {}).values()]
        torch._foreach_zero_([grad for grad in kept if grad is not None])
