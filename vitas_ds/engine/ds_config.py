"""Build the DeepSpeed configuration from a file in ``ds_configs/`` (ZeRO stage, buckets, offload) and the run's config.

Unsupported settings are rejected here, before any process starts. Importing this module does not import torch.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vitas_ds import config
from vitas_ds.errors import UserError
from vitas_ds.errors.reading import read_json

PACKAGE = Path(__file__).parents[1]
OWNED = {  # keys set by the run's config, and the field of each
    "train_batch_size": "batch_size", "train_micro_batch_size_per_gpu": "batch_size",
    "gradient_accumulation_steps": "grad_accum_steps", "managed_gradient_accumulation": "grad_accum_steps",
    "gradient_clipping": "clip_grad", "optimizer": "lr, betas and weight_decay", "scheduler": "lr and warmup_epochs",
    "fp16": "engine.precision", "bf16": "engine.precision", "amp": "engine.precision",
    "torch_autocast": "engine.precision", "zero_allow_untested_optimizer": "the engine itself",
    "zero_force_ds_cpu_optimizer": "the engine itself", "timers": "the engine itself",
}  # fmt: skip

NUMBERS = {
    "stage", "reduce_bucket_size", "allgather_bucket_size", "sub_group_size", "stage3_prefetch_bucket_size",
    "stage3_param_persistence_threshold", "stage3_max_live_parameters", "stage3_max_reuse_distance",
}  # fmt: skip
SWITCHES = {"reduce_scatter", "overlap_comm", "contiguous_gradients"}
KEYS = {  # other keys of DeepSpeed's file: ZeRO, logs, monitors, and how gradients are sent
    "zero_optimization", "steps_per_print", "wall_clock_breakdown", "memory_breakdown", "dump_state", "comms_logger",
    "flops_profiler", "communication_data_type", "prescale_gradients", "gradient_predivide_factor", "tensorboard",
    "csv_monitor", "wandb", "comet", "seed", "disable_allgather", "graph_harvesting",
}  # fmt: skip
ZERO_KEYS = NUMBERS | SWITCHES | {"offload_optimizer"}


def ds_config(engine: config.Engine, training: config.Training, world_size: int) -> dict[str, Any]:
    """Return the DeepSpeed configuration for ``world_size`` ranks: the file ``engine.zero`` and the run's settings.

    It does not contain the precision, because DeepSpeed sees fp32 tensors (see precision.py).

    Raises:
        UserError: The file is missing or invalid, it sets a key of the run's config, or the batch size is not
            divisible by the ranks and accumulation steps.
    """
    path, data = _read_zero(engine.zero)
    for key in data:
        if key in OWNED:
            raise UserError(f"{path}: {key} is set by the run's config ({OWNED[key]}); remove it from this file")
    if data["zero_optimization"]["stage"] == 1:
        # Otherwise, the backward pass allocates a bucket for the reduction, which the engine does itself (see zero.py)
        data["zero_optimization"]["contiguous_gradients"] = False
    return data | {
        "train_batch_size": training.batch_size,
        "train_micro_batch_size_per_gpu": micro_batch_size(training, world_size),
        "gradient_accumulation_steps": training.grad_accum_steps,
        # False: every call of step() is an update, after any number of backward passes. With the default, DeepSpeed
        # expects one step() per backward pass. It would update at every grad_accum_steps-th step() only, and stages 1
        # and 2 would accumulate the gradients of several subnets wrongly.
        "managed_gradient_accumulation": False,
        "gradient_clipping": training.clip_grad,  # without this key, DeepSpeed clips at 1.0
        # Without these two, DeepSpeed refuses to run ZeRO with UnitAdamW, and offload without its own DeepSpeedCPUAdam.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "timers": {"throughput": {"enabled": False}},  # by default it waits for the device twice per step
    }


def micro_batch_size(training: config.Training, world_size: int, section: str = "") -> int:
    """Return the images per rank and accumulation step.

    Args:
        training: Settings of the training stage.
        world_size: Number of ranks.
        section: Section of ``training`` in the recipe, for the error message.

    Raises:
        UserError: The batch size is not divisible by the ranks and accumulation steps.
    """
    parts, prefix = world_size * training.grad_accum_steps, f"{section}." if section else ""
    if training.batch_size % parts:
        raise UserError(
            f"{prefix}batch_size: {training.batch_size} is not a multiple of {world_size} ranks x "
            f"{prefix}grad_accum_steps={training.grad_accum_steps}"
        )
    return training.batch_size // parts


def zero_stage(engine: config.Engine) -> tuple[int, bool]:
    """Return the ZeRO stage, and whether the optimizer states are in host memory."""
    settings = _read_zero(engine.zero)[1].get("zero_optimization", {})
    return int(settings.get("stage", 0)), "offload_optimizer" in settings


def reduce_bucket(settings: dict[str, Any]) -> int:
    """Return the elements that ranks reduce at once, from ``ds_config``."""
    return int(settings["zero_optimization"].get("reduce_bucket_size", 500_000_000))  # DeepSpeed's default


def zero_names() -> list[str]:
    """Return the names of the files in ``ds_configs/``, the values of ``engine.zero`` other than paths."""
    return sorted(path.stem for path in _folder().glob("*.json"))


def _folder() -> Path:
    """Return ``ds_configs/``: inside the installed package, or at the root of the repository."""
    return PACKAGE / "ds_configs" if (PACKAGE / "ds_configs").is_dir() else PACKAGE.parent / "ds_configs"


def _read_zero(name: str) -> tuple[Path, dict[str, Any]]:
    path = Path(name) if name.endswith(".json") else _folder() / f"{name}.json"
    try:
        data = read_json(path)
    except FileNotFoundError:
        raise UserError(
            f"engine.zero: no file {path}; allowed: {', '.join(zero_names())}, or the path of a .json file"
        ) from None
    if not isinstance(data, dict) or not isinstance(data.get("zero_optimization"), dict):
        raise UserError(f"{path}: must be a JSON object with zero_optimization, like the files in ds_configs/")
    for key in data:
        if key not in KEYS and key not in OWNED:
            raise UserError(f"{path}: {key[:60]}: unknown or untested key{_similar(key, [*KEYS, *OWNED])}")
    _check_stage_and_offload(path, data["zero_optimization"])
    _check_keys(path, data["zero_optimization"])
    return path, data


def _check_keys(path: Path, settings: dict[str, Any]) -> None:
    """Check the names and types of the keys of ``zero_optimization``."""
    for key, value in settings.items():
        if key not in ZERO_KEYS:
            raise UserError(
                f"{path}: zero_optimization.{key[:60]} is not supported: not tested to leave unused weights unchanged"
                f"{_similar(key, ZERO_KEYS)}"
            )
        if key in NUMBERS and not (type(value) in (int, float) and 0 <= value < 2**63 and value == int(value)):
            raise UserError(
                f"{path}: zero_optimization.{key} must be a whole number (given: {json.dumps(value)[:60]}), "
                "0 or more and below 2 ** 63"
            )
        if key in SWITCHES and type(value) is not bool:
            raise UserError(f"{path}: zero_optimization.{key} must be true or false (given: {json.dumps(value)[:60]})")


def _similar(key: str, known: Iterable[str]) -> str:
    """Return a hint: the most similar of the known keys, or all."""
    similar = difflib.get_close_matches(key, known, 1)
    return f"; did you mean {similar[0]}?" if similar else f"; allowed: {', '.join(sorted(known))}"[:170]


def _check_stage_and_offload(path: Path, settings: dict[str, Any]) -> None:
    """Check the stage, and its support for offload and overlap_comm."""
    stage, offload = settings.get("stage"), settings.get("offload_optimizer")
    if type(stage) is not int or not 0 <= stage <= 3:
        raise UserError(f"{path}: zero_optimization.stage must be 0, 1, 2 or 3 (given: {json.dumps(stage)[:60]})")
    if offload is not None and (not isinstance(offload, dict) or offload.keys() - {"device", "pin_memory", "ratio"}):
        raise UserError(
            f"{path}: zero_optimization.offload_optimizer must be an object with device, pin_memory and ratio"
        )
    if offload is not None and (stage < 2 or offload.get("device") != "cpu" or offload.get("ratio", 1.0) != 1.0):
        raise UserError(f"{path}: zero_optimization.offload_optimizer needs stage 2 or 3, device cpu and ratio 1")
    if settings.get("overlap_comm") and stage < 2:
        raise UserError(f"{path}: zero_optimization.overlap_comm needs stage 2 or 3")
