"""Training step with DeepSpeed in which unused weights stay unchanged.

This is the only module that imports deepspeed. ``ds_config`` sets the ZeRO stage and optimizer offload,
``optimizer.UnitAdamW`` decides which weights move. One step:

    for part in parts:
        engine.backward(loss_of(engine(part)) / len(parts))
    norm, loss = engine.step(units_used, lr, loss)
"""

from __future__ import annotations

import logging
import math
import os
import traceback
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vitas_ds import config
from vitas_ds.distributed import comm
from vitas_ds.distributed.comm import Ranks
from vitas_ds.engine import precision, recorder, zero
from vitas_ds.engine.ds_config import ds_config, reduce_bucket, zero_stage
from vitas_ds.engine.optimizer import MOMENTS, UnitAdamW, whole_pieces
from vitas_ds.errors import UserError, shorten
from vitas_ds.models.flat import tensor_places

_LINEAR = nn.functional.linear


class Result(NamedTuple):
    """Result of a step: norm of the whole gradient before clipping, equal on all ranks, and the loss of this rank."""

    norm: float
    loss: float


class Engine:
    """A network in training. All ranks must call its methods together.

    Args:
        model: The network. Every parameter belongs to exactly one unit.
        units: Sampling units: a step uses all parameters of a unit, or none. A fixed network has one unit.
        engine: ZeRO configuration and precision.
        training: Batch size, clipping, AdamW, decay of the averaged weights.
        ranks: Result of ``comm.init``.
        lr_scales: Factor of the learning rate by name of the tensor; 1 for others.
    """

    def __init__(
        self, model: nn.Module, units: dict[str, list[nn.Parameter]], engine: config.Engine,
        training: config.Training, ranks: Ranks, lr_scales: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        precision.check(engine, ranks.device)
        precision.set_backends(engine)
        settings = ds_config(engine, training, ranks.world_size)
        self.model, self.ranks = model, ranks
        self.decay, self.clip_grad = training.ema_decay, training.clip_grad
        self.stage, self.offload = zero_stage(engine)
        self._whole = whole_pieces(tensor_places(model), units, lr_scales)
        self.shapes = {piece.name: piece.place.shape for pieces in self._whole.values() for piece in pieces}
        self.optimizer = UnitAdamW([p for params in units.values() for p in params], units, training)
        self._bucket = reduce_bucket(settings)
        self.loss_scale = precision.LossScale(engine.precision)
        network = _AutocastModule(model.to(ranks.device), engine.precision, ranks.device)
        self.ds = _initialize(network, self.optimizer, settings, ranks)
        # Stages 0 and 1 reduce the gradients of used units only, in _step_whole
        self.ds.enable_backward_allreduce = self.stage > 1
        if self.stage > 1:
            zero.fuse_norm(self.ds.optimizer)
        self.owned = zero.pieces(self.ds.optimizer, self.stage, self._whole, ranks.rank)
        self.optimizer.set_layout(self.owned, whole_gradients=self.stage < 2)
        self.averages = {tensor: tensor.detach().clone() for tensor in self.owned} if self.decay else {}
        for tensor, average in self.averages.items():
            self.optimizer.state[tensor]["ema"] = average  # DeepSpeed's checkpoints contain it, next to the moments
        self._set_loss_scale()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward pass in ``engine.precision``."""
        return self.ds(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of a loss. A step with several calls must divide its losses by their number."""
        if self.stage > 1:
            # DeepSpeed clears this flag only in forward(). Without this line, in stage 3 a second backward pass
            # without a forward pass in between overwrites the gradients of the first one instead of adding to them.
            self.ds.optimizer.clear_backward_seen_flag()
        elif self.loss_scale.value != 1:
            loss = loss * self.loss_scale.value
        self.ds.backward(loss, scale_wrt_gas=False)

    def step(self, used: Collection[str], lr: float, loss: Tensor | None = None) -> Result:
        """Average the gradients over the ranks, clip them, and update the units in ``used``.

        Args:
            used: Units of the gradients.
            lr: Learning rate.
            loss: Loss of this rank, a scalar on the device. It is read together with the norm, because each read waits
                for the device.

        Returns:
            The norm and the loss (NaN without one). If the norm is not finite, nothing was updated.
        """
        self.optimizer.set_lr(lr)
        self.optimizer.start_step(used)
        result = self._step_whole(used, loss) if self.stage < 2 else self._step_sharded(loss)
        finite = math.isfinite(result.norm)
        if not finite:
            self.optimizer.revert_step()
        elif self.averages:
            with torch.no_grad():
                torch._foreach_lerp_(list(self.averages.values()), list(self.averages), 1 - self.decay)
        self.loss_scale.update(finite)
        self._set_loss_scale()
        return result

    @torch.no_grad()
    def _step_whole(self, used: Collection[str], loss: Tensor | None) -> Result:
        """Stages 0 and 1: the parameters hold the whole gradients.

        DeepSpeed's own step of these stages computes the same in many more calls: in stage 0, it clips with a second
        norm; on stage 1, see zero.py.
        """
        grads = [p.grad for p in self._whole if p.grad is not None]
        self._check_used(used)
        if self.ranks.world_size > 1:
            self.ds.buffered_allreduce_fallback(grads, self._bucket)
        if self.loss_scale.value != 1:
            torch._foreach_mul_(grads, 1 / self.loss_scale.value)
        result = _read(nn.utils.get_total_norm(grads) if grads else 0.0, loss)
        if math.isfinite(result.norm):
            if 0 < self.clip_grad < result.norm:
                torch._foreach_mul_(grads, self.clip_grad / (result.norm + 1e-6))
            self.optimizer.update()
            if self.stage == 1:
                zero.update_model_weights(self.ds.optimizer, self.stage)
        for p in self._whole:
            p.grad = None  # else the next backward pass would add to it
        return result

    def _step_sharded(self, loss: Tensor | None) -> Result:
        """Stages 2 and 3: ZeRO itself skips a step with a non-finite norm, and returns inf."""
        self.ds.step()
        zero.clear_stale_gradients(self.ds.optimizer, self.stage, self.offload)
        return _read(self.ds.optimizer._global_grad_norm, loss)

    def _check_used(self, used: Collection[str]) -> None:
        for p, pieces in self._whole.items():
            if p.grad is not None:
                name, unit = pieces[0].name, pieces[0].unit
                assert unit in used, f"{name} has a gradient, but its unit is not among those used"

    def _set_loss_scale(self) -> None:
        if self.stage > 1 and self.loss_scale.dynamic:
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

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights, if any, into the model for the time of the block. All ranks must call this."""
        if not self.averages:
            yield
            return
        weights = [tensor.detach().clone() for tensor in self.owned]
        self._set_weights(list(self.averages.values()))
        try:
            yield
        finally:
            self._set_weights(weights)

    @torch.no_grad()
    def _set_weights(self, values: list[Tensor]) -> None:
        """Copy ``values`` to the owned tensors, and these to the model."""
        torch._foreach_copy_(list(self.owned), values)
        zero.update_model_weights(self.ds.optimizer, self.stage)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of tensors in a checkpoint for each parameter."""
        return ("weight", *MOMENTS, *(["ema"] if self.averages else []))

    def buffers(self) -> dict[str, Tensor]:
        """Return the persistent buffers of the network, which are equal on all ranks."""
        persistent = {
            f"{path}.{name}".removeprefix(".")
            for path, module in self.model.named_modules()
            for name in module._buffers.keys() - module._non_persistent_buffers_set
        }
        return {name: tensor for name, tensor in self.model.named_buffers() if name in persistent}

    def state(self) -> dict[str, Any]:
        """Return the rest of the state for a bitwise resume: step count of each unit, and the loss scale."""
        return {"steps": dict(self.optimizer.steps), "loss_scale": self.loss_scale.state()}

    def checkpoint_files(self, step: int, content: dict[str, Any]) -> dict[str, Any]:
        """Return what DeepSpeed's ``save_checkpoint`` would write on this rank, by file name. All ranks must call this.

        Args:
            step: Number of finished steps.
            content: Our state of the training. It is added to the files as ``vitas_ds``.
        """
        ours = content | {"kinds": list(self.kinds)}
        if self.stage == 0:  # the other stages save names and shapes in the order of the optimizer themselves
            names = {p: name for name, p in self.ds.module.named_parameters()}
            ours["parameters"] = {names[p]: tuple(p.shape) for p in self._whole}
        return recorder.files_of(self.ds, step, {"vitas_ds": ours})

    def restore(self, state: dict[str, Any]) -> None:
        """Restore ``state()`` and copy the owned tensors into the model. Load into ``tensors`` first."""
        if other := sorted(state["steps"].keys() - self.optimizer.steps.keys()):
            raise UserError(
                f"resume_from: a training with other frozen weights or of another space (it has steps of {other[0]}); "
                "set init_weights instead, which starts at step 0"
            )
        self.optimizer.steps.update(state["steps"])
        self.loss_scale.restore(state["loss_scale"])
        self._set_loss_scale()
        zero.update_model_weights(self.ds.optimizer, self.stage)


class _AutocastModule(nn.Module):
    """The network under autocast.

    DeepSpeed disables any autocast context around its forward pass (it checks the one for CUDA).
    With autocast around the engine, a GPU would compute in fp32. This module enters autocast inside of that pass.
    """

    def __init__(self, model: nn.Module, precision: str, device: torch.device) -> None:
        super().__init__()
        self.model, self.precision, self.device = model, precision, device

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with precision.autocast(self.precision, self.device):
            return self.model(*args, **kwargs)


def _read(norm: Tensor | float, loss: Tensor | None) -> Result:
    """Copy the norm and the loss to the host, in one transfer if both are on one device."""
    if loss is None:
        return Result(float(norm), math.nan)
    if isinstance(norm, Tensor) and norm.device == loss.device:
        return Result(*torch.stack([norm.float(), loss.detach().float()]).tolist())
    return Result(float(norm), float(loss.detach()))


def _initialize(model: nn.Module, optimizer: UnitAdamW, settings: dict[str, Any], ranks: Ranks) -> Any:
    """Wrap the model in a DeepSpeed engine.

    deepspeed is imported here and not at the top: this takes a second, and half of the commands do not need it.
    """
    # DeepSpeed reads both at import or initialization. Without them, it uses a GPU of the machine in a CPU run, and
    # fails without a launcher.
    os.environ.setdefault("DS_ACCELERATOR", ranks.device.type)
    os.environ.setdefault("LOCAL_RANK", str(ranks.local_rank))
    if os.environ["DS_ACCELERATOR"] == "cuda" and ranks.device.type == "cpu":
        raise UserError("DS_ACCELERATOR: is cuda, but this job computes on the CPU; unset it, or use run.device=cuda")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.ERROR)
    # Without this, DeepSpeed compiles its shared-memory op on a CPU: a minute in which all other ranks wait
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed has its own process groups; close() destroys them first
    comm.at_close(deepspeed.comm.destroy_process_group)
    comm.at_close(_restore_linear)
    with _device_as_local_rank(ranks):
        try:
            return deepspeed.initialize(model=model, optimizer=optimizer, config=settings)[0]
        except (ValueError, AssertionError, deepspeed.DeepSpeedConfigError) as error:
            if not _is_of_settings(error):
                raise  # a bug of this program
            raise UserError(f"engine.zero: DeepSpeed rejects the settings: {shorten(str(error), 200)}") from error


def _is_of_settings(error: BaseException) -> bool:
    """Return whether DeepSpeed raised an error while it read its configuration."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__") == "deepspeed.runtime.config" for frame, _ in frames)


@contextmanager
def _device_as_local_rank(ranks: Ranks) -> Iterator[None]:
    """Let DeepSpeed use this rank's device: it takes the local rank for the index of the GPU."""
    names = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
    before = {name: os.environ[name] for name in names if name in os.environ}
    if ranks.device.index is not None:
        os.environ.update(dict.fromkeys(before, str(ranks.device.index)))
    try:
        yield
    finally:
        os.environ.update(before)


def _restore_linear() -> None:
    """Undo the replacement of F.linear by ZeRO-3, which otherwise lasts until the process ends."""
    nn.functional.linear = _LINEAR
