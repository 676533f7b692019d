"""Where ZeRO put a parameter: which elements of it lie where in the tensors that this rank owns.

The one file that knows the insides of DeepSpeed's ZeRO optimizers (0.19). The optimizer and the checkpoint work on
``Piece`` alone, and so are the same for every stage.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vitas_ds.engine.optimizer import Piece

UnitOf = dict[nn.Parameter, tuple[str, str]]


def pieces(optimizer: Any, stage: int, unit_of: UnitOf, rank: int) -> dict[Tensor, list[Piece]]:
    """The fp32 tensors that this rank updates, each with the pieces of parameters in it.

    Args:
        optimizer: the engine's optimizer: ZeRO's in stages 1 to 3 (not looked at in stage 0).
        unit_of: (name, unit) of each parameter.
    """
    if stage == 0:
        return {p: [Piece(name, unit, 0, 0, p.numel())] for p, (name, unit) in unit_of.items()}
    if stage == 3:
        return _sub_groups(optimizer, unit_of, rank)
    return _partitions(optimizer, unit_of, rank)


def _partitions(optimizer: Any, unit_of: UnitOf, rank: int) -> dict[Tensor, list[Piece]]:
    """Stages 1 and 2: a group is flattened, padded, and cut into one equal part a rank."""
    owned: dict[Tensor, list[Piece]] = {}
    for i, flat in enumerate(optimizer.single_partition_of_fp32_groups):
        first, last = rank * flat.numel(), (rank + 1) * flat.numel()
        owned[flat] = []
        for param, begin in zip(
            optimizer.round_robin_bit16_groups[i], optimizer.round_robin_bit16_offsets[i], strict=True
        ):
            low, high = max(first, begin), min(last, begin + param.numel())
            if low < high:
                owned[flat].append(Piece(*unit_of[param], low - begin, low - first, high - low))
    return owned


def _sub_groups(optimizer: Any, unit_of: UnitOf, rank: int) -> dict[Tensor, list[Piece]]:
    """Stage 3: every parameter is cut into one equal part a rank (the last padded); the parts lie in a row."""
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


def publish(optimizer: Any, stage: int) -> None:
    """Give the network the weights that were just put into the owned tensors."""
    if stage in (1, 2):
        optimizer.update_lp_params()
    elif stage == 3:
        for i in range(len(optimizer.fp16_groups)):
            optimizer._reassign_or_swap_out_partitioned_parameters(i)
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)


def forget_gradients(optimizer: Any, stage: int, offload: bool) -> None:
    """Zero what ZeRO keeps of this step's gradients and would take for the next one's where a weight goes unused."""
    if stage == 3:
        optimizer.grad_partitions_flat_buffer.zero_()
    if offload:
        optimizer.norm_for_param_grads.clear()
        flats = optimizer.fp32_partitioned_groups_flat if stage == 3 else optimizer.single_partition_of_fp32_groups
        kept = [*(flat.grad for flat in flats), *getattr(optimizer, "accumulated_grads_in_cpu", {}).values()]
        torch._foreach_zero_([grad for grad in kept if grad is not None])
