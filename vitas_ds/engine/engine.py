"""Training with DeepSpeed: the step in which unused weights stay as they are.

The sole import of deepspeed. ZeRO stages 0 to 3 and optimizer offload come from ``ds_config.py``; which weights move is
decided by ``optimizer.UnitAdamW``. One step:

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


class Engine:
    """A network in training. All ranks call its methods together.

    Args:
        model: the network; every parameter belongs to exactly one unit.
        units: parameters that a step uses together or not at all; a fixed net has one unit.
        engine: ZeRO and precision.
        training: batch, clipping, AdamW's numbers, decay of the averaged weights.
        ranks: from ``distributed.init``.
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
        network = _InPrecision(model.to(ranks.device), engine.precision, ranks.device)
        self.ds = _initialize(network, self.optimizer, settings, ranks)
        self.ds.enable_backward_allreduce = self.stage > 0  # stage 0 reduces in step(), see there
        self.owned = zero.pieces(self.ds.optimizer, self.stage, self._unit_of, ranks.rank)
        self.optimizer.own(self.owned)
        self.averages = {tensor: tensor.detach().clone() for tensor in self.owned} if self.decay else {}
        self._set_loss_scale()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The network's output, computed in ``engine.precision``."""
        return self.ds(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss. A step that takes several calls divides its losses by their number itself."""
        if self.stage == 0:
            loss = loss * self.loss_scale.value
        else:  # or a second backward pass without a forward pass before it replaces the gradients of the first
            self.ds.optimizer.clear_backward_seen_flag()
        self.ds.backward(loss, scale_wrt_gas=False)

    def step(self, used: Collection[str], lr: float) -> float:
        """Average the gradients over the ranks, clip, and update the units in ``used``.

        Returns:
            Norm of the whole gradient before clipping. If it is not finite (on all ranks alike) nothing was updated.
        """
        self.optimizer.set_lr(lr)
        self.optimizer.begin(used)
        if self.stage < 2:  # later stages have taken the gradients away by now
            stray = [name for p, (name, unit) in self._unit_of.items() if p.grad is not None and unit not in used]
            assert not stray, f"{stray[0]} has a gradient, but its unit is not among those used"
        norm = self._step_replicated() if self.stage == 0 else self._step_sharded()
        finite = math.isfinite(norm)
        if not finite:
            self.optimizer.undo()
        elif self.averages:
            with torch.no_grad():
                torch._foreach_lerp_(list(self.averages.values()), list(self.averages), 1 - self.decay)
        self.loss_scale.update(finite)
        self._set_loss_scale()
        return norm

    def _step_replicated(self) -> float:
        """Stage 0. Units that no rank used are not sent, and the norm is known before anything moves."""
        grads = [p.grad for p in self.owned if p.grad is not None]
        if self.ranks.world_size > 1:
            self.ds.buffered_allreduce_fallback(grads)
        if self.loss_scale.value != 1:
            torch._foreach_mul_(grads, 1 / self.loss_scale.value)
        norm = float(nn.utils.get_total_norm(grads)) if grads else 0.0
        if math.isfinite(norm):
            self.ds.step()
        else:
            self.ds.zero_grad()
        return norm

    def _step_sharded(self) -> float:
        """Stages 1 to 3. ZeRO itself skips a step whose norm is not finite, and says inf."""
        self.ds.step()
        zero.forget_gradients(self.ds.optimizer, self.stage, self.offload)
        return float(self.ds.optimizer._global_grad_norm)

    def _set_loss_scale(self) -> None:
        if self.stage > 0 and self.loss_scale.dynamic:
            self.ds.optimizer.override_loss_scale(self.loss_scale.value)

    @property
    def settling(self) -> bool:
        """fp16: a step that was skipped is the loss scale finding its value, and no failure."""
        return self.loss_scale.dynamic and self.loss_scale.value > 1

    def tensors(self, kind: str) -> dict[Tensor, Tensor]:
        """This rank's ``weight``, ``exp_avg``, ``exp_avg_sq`` or ``ema``, by the tensor that ``owned`` describes."""
        if kind == "weight":
            return {tensor: tensor for tensor in self.owned}
        if kind == "ema":
            return self.averages
        return {tensor: self.optimizer.state[tensor][kind] for tensor in self.owned}

    @property
    def kinds(self) -> tuple[str, ...]:
        """What a checkpoint holds of each parameter."""
        return ("weight", *MOMENTS, *(["ema"] if self.averages else []))

    def constants(self) -> dict[str, Tensor]:
        """The buffers of the network that a checkpoint holds; they are the same on all ranks."""
        return {name: tensor for name, tensor in self.model.state_dict().items() if name not in self.shapes}

    def state(self) -> dict[str, Any]:
        """What else a bitwise resume needs: the step count of each unit and the loss scale."""
        return {"steps": dict(self.optimizer.steps), "loss_scale": self.loss_scale.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take ``state()`` back, after the contents of ``tensors`` were replaced; the network gets its weights."""
        self.optimizer.steps.update(state["steps"])
        self.loss_scale.restore(state["loss_scale"])
        self._set_loss_scale()
        zero.publish(self.ds.optimizer, self.stage)


class _InPrecision(nn.Module):
    """The network under autocast.

    DeepSpeed disables every autocast context that is active when its forward pass starts (it checks the one for CUDA),
    so autocast around the engine would compute in fp32 on a GPU. This module enters autocast inside that pass.
    """

    def __init__(self, model: nn.Module, kind: str, device: torch.device) -> None:
        super().__init__()
        self.model, self.kind, self.device = model, kind, device

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with precision.autocast(self.kind, self.device):
            return self.model(*args, **kwargs)


def _unit_of(model: nn.Module, units: dict[str, list[nn.Parameter]]) -> dict[nn.Parameter, tuple[str, str]]:
    """(name, unit) of each parameter; units and network must agree exactly."""
    names = {p: name for name, p in model.named_parameters()}
    listed = [(p, unit) for unit, params in units.items() for p in params]
    assert len(listed) == len({p for p, _ in listed}), "a parameter is in two sampling units"
    assert {p for p, _ in listed} == set(names), "the sampling units are not the network's parameters"
    return {p: (names[p], unit) for p, unit in listed}


def _initialize(model: nn.Module, optimizer: UnitAdamW, settings: dict[str, Any], ranks: Ranks) -> Any:
    """DeepSpeed's engine around the model. Imported here: it takes a second, and half of the commands do without."""
    os.environ.setdefault("DS_ACCELERATOR", ranks.device.type)
    os.environ.setdefault("LOCAL_RANK", str(ranks.local_rank))
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.ERROR)
    # or it compiles a shared-memory op on the way (a minute in which every other rank waits)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    comm.at_close(deepspeed.comm.destroy_process_group)
    return deepspeed.initialize(model=model, optimizer=optimizer, config=settings)[0]
