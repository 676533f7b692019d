"""A training on N GPUs before there are any: DeepSpeed's configuration, and the memory of a GPU in each ZeRO stage."""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch

from vitas_ds import config
from vitas_ds.arch import cost, genome
from vitas_ds.arch.published import find_spec
from vitas_ds.arch.space import columns_of
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.engine.ds_config import ds_config, zero_names
from vitas_ds.engine.memory import Memory, estimate
from vitas_ds.models.supernet import Supernet

COLUMNS = ("weights", "gradients", "optimizer", "activations", "total", "host")


def lines(resolved: config.Config, world_size: int) -> Iterator[str]:
    """The plan of both trainings.

    Raises:
        UserError: the DeepSpeed configuration is not valid, or does not fit the number of ranks.
    """
    space, supernet, retrain = resolved.space, resolved.supernet, resolved.retrain
    largest = genome.decode(space, genome.largest(space))
    sides = 2 if supernet.sharing == "bilateral" else 1
    keeps = sides * activations(largest, resolved.engine.grad_checkpointing)
    with torch.device("meta"):
        params = sum(p.numel() for p in Supernet(space, supernet.sharing, supernet.private_attention).parameters())
    yield from _training("supernet, its largest net", resolved.engine, supernet, world_size, params, keeps)
    searched = retrain.spec.startswith("search:")
    net, name = (largest, "the space's largest net") if searched else (find_spec(retrain.spec), retrain.spec)
    keeps, params = activations(net, resolved.engine.grad_checkpointing), cost.spec_params(net)
    yield from _training(f"retrain, {name}", resolved.engine, retrain, world_size, params, keeps)


def activations(spec: SubnetSpec, recomputed: bool) -> float:
    """Bytes that the backward pass of an image keeps, in fp32; ``recomputed``: each layer keeps its input alone."""
    table = columns_of([spec])
    whole, layers = float(cost.activations(table)[0]), cost.layer_activations(table)[0]
    inputs = 4 * (spec.num_patches + 1) * spec.embed_dim * spec.depth
    return whole - float(layers.sum() - layers.max()) + inputs if recomputed else whole


def _training(
    title: str, engine: config.Engine, training: config.Training, world_size: int, params: int, keeps: float
) -> Iterator[str]:
    settings = ds_config(engine, training, world_size)
    yield ""
    yield f"{title}: {params / 1e6:.1f} M parameters, on {world_size} ranks"
    yield (
        f"{training.batch_size} images a step = {world_size} ranks x grad_accum_steps {training.grad_accum_steps} x "
        f"{settings['train_micro_batch_size_per_gpu']} images at once"
    )
    yield f"DeepSpeed: {json.dumps(settings)}"
    yield f"estimated GiB of a GPU, {engine.precision}:"
    yield f"{'':16}" + "".join(f"{name:>13}" for name in COLUMNS)
    for zero in dict.fromkeys((*zero_names(), engine.zero)):
        row = estimate(engine.model_copy(update={"zero": zero}), training, world_size, params, keeps)
        yield f"{zero:16}{_row(row)}" + ("  <- engine.zero" if zero == engine.zero else "")
    yield "total: without CUDA's context and workspaces, 1 to 2 GiB; host: a rank's share of its node's memory"


def _row(memory: Memory) -> str:
    values = memory.to_dict()
    return "".join(f"{values[name] / 2**30:13.2f}" for name in COLUMNS)
