"""Estimate the memory that training needs per GPU, for each ZeRO stage and any number of ranks, before it starts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch

from vitas_ds import config
from vitas_ds.arch import cost, genome
from vitas_ds.arch.published import find_spec
from vitas_ds.arch.space import WidthTable
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.engine.ds_config import ds_config, reduce_bucket, zero_names, zero_stage
from vitas_ds.models.supernet import Supernet

FP32 = 4  # bytes
COLUMNS = ("weights", "gradients", "optimizer", "activations", "total", "host")


@dataclass(frozen=True)
class Memory:
    """Peak memory of one rank during a training step, in bytes.

    ``host`` is this rank's share of host memory, all other fields are GPU memory.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    host: int = 0

    @property
    def total(self) -> int:
        """GPU memory, without the 1 to 2 GiB of the CUDA context and cuDNN workspaces."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def to_dict(self) -> dict[str, int]:
        """Return all fields and the total."""
        return asdict(self) | {"total": self.total}


def estimate(
    engine: config.Engine, training: config.Training, world_size: int, params: int, activations: float = 0
) -> Memory:
    """Estimate the memory of one rank out of ``world_size``.

    Weights, gradients, moments and averaged weights are fp32 in every precision. Gradients are counted for a step that
    uses all parameters; a step of a supernet uses fewer.

    Args:
        engine: ZeRO configuration and precision.
        training: Batch size, gradient accumulation, averaged weights.
        world_size: Number of ranks.
        params: Number of parameters of the whole network.
        activations: Bytes kept per image for the backward pass, in fp32 (``cost.activations``).

    Raises:
        UserError: See ``ds_config``.
    """
    settings = ds_config(engine, training, world_size)
    stage, offload = zero_stage(engine)
    whole = FP32 * params
    part = -(-whole // world_size)
    # Stages 2 and 3 allocate the whole bucket, however small the network is
    bucket = FP32 * reduce_bucket(settings)
    states = _state_copies(stage, training) * (whole if stage == 0 else part)
    # Stages 0 and 1 keep all gradients, and several ranks copy them into buckets. Stages 2 and 3 keep this rank's part
    # and the flat copy for the optimizer.
    copied = min(bucket, whole) if world_size > 1 else 0
    gradients = {0: whole + copied, 1: whole + copied, 2: 3 * part + bucket, 3: 2 * part + bucket}[stage]
    kept = activations * settings["train_micro_batch_size_per_gpu"] * (1 if engine.precision == "fp32" else 0.5)
    weights = whole if stage < 3 else part
    host = states + part * (2 if stage == 3 else 1) if offload else 0
    return Memory(weights, gradients, 0 if offload else states, round(kept), host)


def _state_copies(stage: int, training: config.Training) -> int:
    """Return how many times the optimizer stores the parameters: two moments, a master copy, averaged weights."""
    return (2 if stage == 0 else 3) + (training.ema_decay > 0)


def activation_bytes(spec: SubnetSpec, grad_checkpointing: bool) -> float:
    """Return the bytes kept per image for the backward pass, in fp32.

    With ``grad_checkpointing``, each layer keeps only its input, and one layer at a time is recomputed.
    """
    table = WidthTable.from_specs([spec])
    total, layers = float(cost.activations(table)[0]), cost.layer_activations(table)[0]
    if not grad_checkpointing:
        return total
    inputs = FP32 * spec.num_tokens * spec.embed_dim * spec.depth
    return total - float(layers.sum() - layers.max()) + inputs


def report_lines(resolved: config.Config, world_size: int) -> Iterator[str]:
    """Yield a report on both training stages: the DeepSpeed configuration and the estimated memory per GPU.

    Raises:
        UserError: The DeepSpeed configuration is invalid, or does not fit the number of ranks.
    """
    space, supernet, retrain = resolved.space, resolved.supernet, resolved.retrain
    recompute = resolved.engine.grad_checkpointing
    largest = genome.decode(space, genome.largest(space))
    with torch.device("meta"):
        model = Supernet(space, supernet.sharing, supernet.private_attention, private_norms=supernet.private_norms)
    params, activations = sum(p.numel() for p in model.parameters()), activation_bytes(largest, recompute)
    title = "supernet, largest subnet"
    yield from _stage_lines(title, resolved.engine, supernet, world_size, params, len(model.sides) * activations)
    if retrain.spec == "init" or "search:" in retrain.spec:  # not known yet
        spec, title = largest, "retrain, largest subnet of the space"
    else:
        spec, title = find_spec(retrain.spec), f"retrain, {retrain.spec}"
    params, activations = cost.spec_params(spec), activation_bytes(spec, recompute)
    yield from _stage_lines(title, resolved.engine, retrain, world_size, params, activations)


def layout_line(engine: config.Engine, training: config.Training, world_size: int, params: int) -> str:
    """Return what ``engine.zero`` shards over the ranks, with the bytes of each rank. Arguments as in ``estimate``."""
    stage, offload = zero_stage(engine)
    whole, part = FP32 * params, -(-FP32 * params // world_size)
    parts = [("weights", 1, 3), ("gradients", 1, 2), ("optimizer states", _state_copies(stage, training), 1)]
    texts = [
        f"{name} {count * (part if stage >= first else whole):,} ({f'1/{world_size}' if stage >= first else 'whole'})"
        for name, count, first in parts
    ]
    return f"ZeRO {stage}, bytes per rank: {', '.join(texts)}{', on the host' if offload else ''}"


def _stage_lines(
    title: str, engine: config.Engine, training: config.Training, world_size: int, params: int, activations: float
) -> Iterator[str]:
    settings = ds_config(engine, training, world_size)
    yield ""
    yield f"{title}: {params / 1e6:.1f} M parameters on {world_size} ranks"
    yield (
        f"batch_size {training.batch_size} = {world_size} ranks x grad_accum_steps {training.grad_accum_steps} x "
        f"{settings['train_micro_batch_size_per_gpu']} images"
    )
    yield layout_line(engine, training, world_size, params)
    yield f"DeepSpeed: {json.dumps(settings)}"
    yield f"estimated GiB per GPU, {engine.precision}:"
    yield f"{'':16}" + "".join(f"{name:>13}" for name in COLUMNS)
    for zero in dict.fromkeys((*zero_names(), engine.zero)):
        memory = estimate(engine.model_copy(update={"zero": zero}), training, world_size, params, activations)
        values = memory.to_dict()
        row = "".join(f"{values[name] / 2**30:13.2f}" for name in COLUMNS)
        yield f"{zero:16}{row}" + ("  <- engine.zero" if zero == engine.zero else "")
    yield "total: without CUDA context and workspaces (1 to 2 GiB); host: host memory per rank"
