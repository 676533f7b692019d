"""Training step with DeepSpeed in which unused weights stay unchanged.

This is the only module that imports deepspeed. ``ds_config`` sets the ZeRO stage and optimizer offload,
``optimizer.UnitAdamW`` decides which weights move. One step:

    for part in parts:
        engine.backward(loss_of(engine(part)) / len(parts))
    norm = engine.step(units_used, lr)
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from vitas_ds import config
from vitas_ds.distributed import comm
from vitas_ds.distributed.comm import Ranks
from vitas_ds.engine import precision, zero
from vitas_ds.engine.ds_config import ds_config, zero_stage
from vitas_ds.engine.optimizer import MOMENTS, UnitAdamW, decay_groups

_LINEAR = nn.functional.linear


class Engine:
    """A network in training. All ranks must call its methods together.

    Args:
        model: The network. Every parameter belongs to exactly one unit.
        units: Sampling units: parameters that a step uses together or not at all. A fixed network has one unit.
        engine: ZeRO configuration and precision.
        training: Batch size, clipping, AdamW, decay of the averaged weights.
        ranks: Result of ``comm.init``.
    """

    def __init__(
        self, model: nn.Module, units: dict[str, list[nn.Parameter]], engine: config.Engine,
        training: config.Training, ranks: Ranks,
    ) -> None:  # fmt: skip
        precision.check(engine, ranks.device)
        precision.set_backends(engine)
        settings = ds_config(engine, training, ranks.world_size)
        self._unit_of = _unit_of(model, units)
        self.model, self.ranks, self.decay = model, ranks, training.ema_decay
        self.stage, self.offload = zero_stage(engine)
        self.shapes = {name: tuple(p.shape) for p, (name, _) in self._unit_of.items()}
        self.optimizer = UnitAdamW(decay_groups(units, training.weight_decay), units, training)
        self.loss_scale = precision.LossScale(engine.precision)
        network = _AutocastModule(model.to(ranks.device), engine.precision, ranks.device)
        self.ds = _initialize(network, self.optimizer, settings, ranks)
        # Stage 0 reduces in _step_replicated, to know the norm before DeepSpeed's step(). Without this line, DeepSpeed
        # would reduce all gradients a second time.
        self.ds.enable_backward_allreduce = self.stage > 0
        self.owned = zero.pieces(self.ds.optimizer, self.stage, self._unit_of, ranks.rank)
        self.optimizer.set_layout(self.owned)
        self.averages = {tensor: tensor.detach().clone() for tensor in self.owned} if self.decay else {}
        self._set_loss_scale()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward pass in ``engine.precision``."""
        return self.ds(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of a loss. A step with several calls must divide its losses by their number."""
        if self.stage == 0:
            loss = loss * self.loss_scale.value
        else:
            # DeepSpeed clears this flag only in forward(). Without this line, in stage 3 a second backward pass
            # without a forward pass in between overwrites the gradients of the first one instead of adding to them.
            self.ds.optimizer.clear_backward_seen_flag()
        self.ds.backward(loss, scale_wrt_gas=False)

    def step(self, used: Collection[str], lr: float) -> float:
        """Average the gradients over the ranks, clip them, and update the units in ``used``.

        Returns:
            Norm of the whole gradient before clipping, equal on all ranks. If it is not finite, nothing was updated.
        """
        self.optimizer.set_lr(lr)
        self.optimizer.start_step(used)
        if self.stage < 2:  # stages 2 and 3 free the gradients during the backward pass
            stray = [name for p, (name, unit) in self._unit_of.items() if p.grad is not None and unit not in used]
            assert not stray, f"{stray[0]} has a gradient, but its unit is not among those used"
        norm = self._step_replicated() if self.stage == 0 else self._step_sharded()
        finite = math.isfinite(norm)
        if not finite:
            self.optimizer.revert_step()
        elif self.averages:
            with torch.no_grad():
                torch._foreach_lerp_(list(self.averages.values()), list(self.averages), 1 - self.decay)
        self.loss_scale.update(finite)
        self._set_loss_scale()
        return norm

    def _step_replicated(self) -> float:
        """Stage 0: reduce only gradients of used units, and compute the norm before anything is updated."""
        grads = [p.grad for p in self.owned if p.grad is not None]
        if self.ranks.world_size > 1:
            self.ds.buffered_allreduce_fallback(grads)
        if self.loss_scale.value != 1:
            torch._foreach_mul_(grads, 1 / self.loss_scale.value)
        norm = float(nn.utils.get_total_norm(grads)) if grads else 0.0
        if math.isfinite(norm):
            self.ds.step()
        else:
            self.ds.zero_grad()  # without this, the next step would add to the non-finite gradients
        return norm

    def _step_sharded(self) -> float:
        """Stages 1 to 3: ZeRO itself skips a step with a non-finite norm, and returns inf."""
        self.ds.step()
        zero.clear_stale_gradients(self.ds.optimizer, self.stage, self.offload)
        return float(self.ds.optimizer._global_grad_norm)

    def _set_loss_scale(self) -> None:
        if self.stage > 0 and self.loss_scale.dynamic:
            self.ds.optimizer.override_loss_scale(self.loss_scale.value)

    @property
    def loss_scale_adapting(self) -> bool:
        """Whether the fp16 loss scale can still be lowered: a skipped step is then normal, not a divergence."""
        return self.loss_scale.dynamic and self.loss_scale.value > 1

    def tensors(self, kind: str) -> dict[Tensor, Tensor]:
        """Return this rank's tensors of a kind (see ``kinds``), keyed by the tensor in ``owned``."""
        if kind == "weight":
            return {tensor: tensor for tensor in self.owned}
        if kind == "ema":
            return self.averages
        return {tensor: self.optimizer.state[tensor][kind] for tensor in self.owned}

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of tensors that a checkpoint keeps of each parameter."""
        return ("weight", *MOMENTS, *(["ema"] if self.averages else []))

    def buffers(self) -> dict[str, Tensor]:
        """Return the persistent buffers of the network, which are equal on all ranks."""
        return {name: tensor for name, tensor in self.model.state_dict().items() if name not in self.shapes}

    def state(self) -> dict[str, Any]:
        """Return the rest of the state for a bitwise resume: step count of each unit, and the loss scale."""
        return {"steps": dict(self.optimizer.steps), "loss_scale": self.loss_scale.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore ``state()`` and copy the owned tensors into the model. Load into ``tensors`` first."""
        self.optimizer.steps.update(state["steps"])
        self.loss_scale.restore(state["loss_scale"])
        self._set_loss_scale()
        zero.update_model_weights(self.ds.optimizer, self.stage)


class _AutocastModule(nn.Module):
    """The network under autocast.

    DeepSpeed disables any autocast context that is active when its forward pass starts (it checks the one for CUDA).
    With autocast around the engine, a GPU would compute in fp32. This module enters autocast inside of that pass.
    """

    def __init__(self, model: nn.Module, precision: str, device: torch.device) -> None:
        super().__init__()
        self.model, self.precision, self.device = model, precision, device

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with precision.autocast(self.precision, self.device):
            return self.model(*args, **kwargs)


def _unit_of(model: nn.Module, units: dict[str, list[nn.Parameter]]) -> dict[nn.Parameter, tuple[str, str]]:
    """Return (name, unit) of each parameter. The units must cover the network exactly."""
    names = {p: name for name, p in model.named_parameters()}
    listed = [(p, unit) for unit, params in units.items() for p in params]
    assert len(listed) == len({p for p, _ in listed}), "a parameter is in two sampling units"
    assert {p for p, _ in listed} == set(names), "the sampling units are not the network's parameters"
    return {p: (names[p], unit) for p, unit in listed}


def _initialize(model: nn.Module, optimizer: UnitAdamW, settings: dict[str, Any], ranks: Ranks) -> Any:
    """Wrap the model in a DeepSpeed engine.

    deepspeed is imported here and not at the top: this takes a second, and half of the commands do not need it.
    """
    # DeepSpeed reads both at import or initialization. Without them, it uses a GPU of the machine in a CPU run, and
    # fails without a launcher.
    os.environ.setdefault("DS_ACCELERATOR", ranks.device.type)
    os.environ.setdefault("LOCAL_RANK", str(ranks.local_rank))
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.ERROR)
    # Without this, DeepSpeed compiles its shared-memory op on a CPU: a minute in which all other ranks wait
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed has its own process groups; close() destroys them first
    comm.at_close(deepspeed.comm.destroy_process_group)
    comm.at_close(_restore_linear)
    return deepspeed.initialize(model=model, optimizer=optimizer, config=settings)[0]


def _restore_linear() -> None:
    """Undo the replacement of F.linear by ZeRO-3, which otherwise lasts until the process ends."""
    nn.functional.linear = _LINEAR
