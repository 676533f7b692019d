"""DeepSpeed's configuration: a file of ``ds_configs/`` (ZeRO stage, buckets, offload) and the numbers of the run.

What cannot be right is refused here, before anything starts. No torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vitas_ds import config
from vitas_ds.errors import UserError

PACKAGE = Path(__file__).parents[1]
OWNED = {  # what the run's config owns, and the field that does
    "train_batch_size": "batch_size", "train_micro_batch_size_per_gpu": "batch_size",
    "gradient_accumulation_steps": "grad_accum_steps", "managed_gradient_accumulation": "grad_accum_steps",
    "gradient_clipping": "clip_grad", "optimizer": "lr, betas and weight_decay", "scheduler": "lr and warmup_epochs",
    "fp16": "engine.precision", "bf16": "engine.precision", "amp": "engine.precision",
    "torch_autocast": "engine.precision", "zero_allow_untested_optimizer": "the engine itself",
    "zero_force_ds_cpu_optimizer": "the engine itself",
}  # fmt: skip

NUMBERS = {
    "stage", "reduce_bucket_size", "allgather_bucket_size", "sub_group_size", "stage3_prefetch_bucket_size",
    "stage3_param_persistence_threshold", "stage3_max_live_parameters", "stage3_max_reuse_distance",
}  # fmt: skip
SWITCHES = {"reduce_scatter", "overlap_comm", "contiguous_gradients"}
ZERO_KEYS = NUMBERS | SWITCHES | {"offload_optimizer"}


def ds_config(engine: config.Engine, training: config.Training, world_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration for ``world_size`` ranks: the file that ``engine.zero`` names and the run's numbers.

    Precision is not in it: DeepSpeed sees fp32 tensors (see precision.py).

    Raises:
        UserError: no such file, a file that repeats a number of the run, or a batch that does not divide.
    """
    path, data = _read_zero(engine.zero)
    for key in data:
        if key in OWNED:
            raise UserError(f"{path}: {key} is owned by the run's config ({OWNED[key]}); take it out of this file")
    parts = world_size * training.grad_accum_steps
    if training.batch_size % parts:
        raise UserError(
            f"batch_size: {training.batch_size} is not a multiple of ranks * grad_accum_steps = "
            f"{world_size} * {training.grad_accum_steps}"
        )
    return data | {
        "train_batch_size": training.batch_size,
        "train_micro_batch_size_per_gpu": training.batch_size // parts,
        "gradient_accumulation_steps": training.grad_accum_steps,
        "managed_gradient_accumulation": False,  # step() ends a step, however many backward() it took
        "gradient_clipping": training.clip_grad,  # always said: DeepSpeed's default is 1.0
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def zero_stage(engine: config.Engine) -> tuple[int, bool]:
    """ZeRO stage, and whether the optimizer lives in the host's memory."""
    settings = _read_zero(engine.zero)[1].get("zero_optimization", {})
    return int(settings.get("stage", 0)), "offload_optimizer" in settings


def zero_names() -> list[str]:
    """What ``engine.zero`` may name without a path."""
    return sorted(path.stem for path in _folder().glob("*.json"))


def _folder() -> Path:
    return PACKAGE / "ds_configs" if (PACKAGE / "ds_configs").is_dir() else PACKAGE.parent / "ds_configs"


def _read_zero(name: str) -> tuple[Path, dict[str, Any]]:
    path = Path(name) if name.endswith(".json") else _folder() / f"{name}.json"
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"engine.zero: no file {path}; there are {', '.join(zero_names())}, or give the path of a .json file"
        ) from None
    except OSError as error:
        raise UserError(f"engine.zero: {path} cannot be read ({error.strerror})") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(data, dict) or not isinstance(data.get("zero_optimization"), dict):
        raise UserError(f"{path}: must be a JSON object with zero_optimization, as the files in ds_configs/")
    _check_zero(path, data["zero_optimization"])
    return path, data


def _check_zero(path: Path, settings: dict[str, Any]) -> None:
    """Refuse what cannot be right here, with the reason."""
    stage, offload = settings.get("stage"), settings.get("offload_optimizer")
    if type(stage) is not int or not 0 <= stage <= 3:
        raise UserError(f"{path}: zero_optimization.stage must be 0, 1, 2 or 3 (given: {json.dumps(stage)})")
    for key, value in settings.items():
        if key not in ZERO_KEYS:
            raise UserError(
                f"{path}: zero_optimization.{key} is not supported: it was not shown to leave unused weights as they "
                f"are; allowed: {', '.join(sorted(ZERO_KEYS))}"
            )
        if key in NUMBERS and not (type(value) in (int, float) and float(value).is_integer() and value >= 0):
            raise UserError(f"{path}: zero_optimization.{key} must be a whole number (given: {json.dumps(value)})")
        if key in SWITCHES and type(value) is not bool:
            raise UserError(f"{path}: zero_optimization.{key} must be true or false (given: {json.dumps(value)})")
    if offload is not None and (not isinstance(offload, dict) or offload.keys() - {"device", "pin_memory", "ratio"}):
        raise UserError(
            f"{path}: zero_optimization.offload_optimizer must be an object of device, pin_memory and ratio"
        )
    if offload is not None and (stage < 2 or offload.get("device") != "cpu" or offload.get("ratio", 1.0) != 1.0):
        raise UserError(f"{path}: zero_optimization.offload_optimizer needs stage 2 or 3, device cpu and ratio 1")
    if settings.get("overlap_comm") and stage < 2:
        raise UserError(f"{path}: zero_optimization.overlap_comm needs stage 2 or 3")
