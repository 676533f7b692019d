"""Where ZeRO keeps each parameter: map the tensors that a rank owns to ranges of parameters.

This is the only file that uses internals of the ZeRO optimizers (DeepSpeed 0.19). The optimizer and the checkpoints
see only ``Piece``, so they do not depend on the ZeRO stage.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vitas_ds.engine.optimizer import Piece

UnitOf = dict[nn.Parameter, tuple[str, str]]  # (name, unit) of each parameter


def pieces(optimizer: Any, stage: int, unit_of: UnitOf, rank: int) -> dict[Tensor, list[Piece]]:
    """Return the fp32 tensors that this rank updates, with the pieces of parameters in each.

    Args:
        optimizer: The ZeRO optimizer of the DeepSpeed engine (stages 1 to 3; unused in stage 0).
        stage: ZeRO stage.
        unit_of: (name, unit) of each parameter.
        rank: This rank.
    """
    if stage == 0:
        return {p: [Piece(name, unit, 0, 0, p.numel())] for p, (name, unit) in unit_of.items()}
    if stage == 3:
        return _stage3_pieces(optimizer, unit_of, rank)
    return _stage12_pieces(optimizer, unit_of, rank)


def _stage12_pieces(optimizer: Any, unit_of: UnitOf, rank: int) -> dict[Tensor, list[Piece]]:
    """Stages 1 and 2: each group is flattened, padded, and split into one equal part per rank."""
    owned: dict[Tensor, list[Piece]] = {}
    for i, flat in enumerate(optimizer.single_partition_of_fp32_groups):
        first, last = rank * flat.numel(), (rank + 1) * flat.numel()
        owned[flat] = []
        for param, start in zip(
            optimizer.round_robin_bit16_groups[i], optimizer.round_robin_bit16_offsets[i], strict=True
        ):
            low, high = max(first, start), min(last, start + param.numel())
            if low < high:
                owned[flat].append(Piece(*unit_of[param], low - start, low - first, high - low))
    return owned


def _stage3_pieces(optimizer: Any, unit_of: UnitOf, rank: int) -> dict[Tensor, list[Piece]]:
    """Stage 3: each parameter is split into one equal part per rank (the last one padded); parts are concatenated."""
    owned: dict[Tensor, list[Piece]] = {}
    for flat, params in zip(optimizer.fp32_partitioned_groups_flat, optimizer.fp16_groups, strict=True):
        owned[flat], offset = [], 0
        for param in params:
            part = param.partition_numel()
            length = min(part, param.ds_numel - rank * part)
            if length > 0:
                owned[flat].append(Piece(*unit_of[param], rank * part, offset, length))
            offset += part
    return owned


def update_model_weights(optimizer: Any, stage: int) -> None:
    """Copy the owned tensors into the model, after a checkpoint was loaded into them."""
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

    ZeRO overwrites them only for parameters that the next backward pass uses. Without this, the gradients of unused
    weights count in the norm of the next step, and the step is clipped too much.
    """
    if stage == 3:
        optimizer.grad_partitions_flat_buffer.zero_()
    if offload:
        optimizer.norm_for_param_grads.clear()
        flats = optimizer.fp32_partitioned_groups_flat if stage == 3 else optimizer.single_partition_of_fp32_groups
        kept = [*(flat.grad for flat in flats), *getattr(optimizer, "accumulated_grads_in_cpu", {}).values()]
        torch._foreach_zero_([grad for grad in kept if grad is not None])
