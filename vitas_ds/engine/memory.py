"""Memory of a GPU in training, estimated before anything starts: what each ZeRO stage would need."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from vitas_ds import config
from vitas_ds.engine.ds_config import ds_config, zero_stage

FP32 = 4


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU at the fullest moment of a step. ``host``: bytes of this rank in the host's memory."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    host: int = 0

    @property
    def total(self) -> int:
        """Bytes on the GPU; the libraries' own (CUDA context, cuDNN workspaces: 1 to 2 GiB) come on top."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def to_dict(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self) | {"total": self.total}


def estimate(
    engine: config.Engine, training: config.Training, world_size: int, params: int, activations: float = 0
) -> Memory:
    """Memory of one rank of ``world_size``.

    Weights, gradients, moments and averages are fp32 in every precision. The gradients are those of a step that uses
    every parameter; a supernet's step has fewer.

    Args:
        params: parameters of the whole network.
        activations: bytes that the backward pass of one image keeps, in fp32 (``cost.activations``).

    Raises:
        UserError: as ``ds_config``.
    """
    settings = ds_config(engine, training, world_size)
    stage, offload = zero_stage(engine)
    whole = FP32 * params
    part = -(-whole // world_size)
    bucket = FP32 * settings["zero_optimization"].get("reduce_bucket_size", 500_000_000)  # whatever the net's size
    copies = (2 if stage == 0 else 3) + (training.ema_decay > 0)  # two moments, a master copy, the averages
    states = copies * (whole if stage == 0 else part)
    # gradients: whole before stage 2; a rank's part, and the flat copy that the optimizer reads, after it
    gradients = {0: whole, 1: whole + 2 * part + bucket, 2: 3 * part + bucket, 3: 2 * part + bucket}[stage]
    keeps = activations * settings["train_micro_batch_size_per_gpu"] * (1 if engine.precision == "fp32" else 0.5)
    weights = whole if stage < 3 else part
    host = states + part * (2 if stage == 3 else 1) if offload else 0
    return Memory(weights, gradients, 0 if offload else states, round(keeps), host)
