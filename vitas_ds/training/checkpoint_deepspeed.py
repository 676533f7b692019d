"""Read the weights in a checkpoint of DeepSpeed's ``engine.save_checkpoint``, without deepspeed.

    DIR/latest                                           name of the newest tag
    DIR/TAG/mp_rank_00_model_states.pt                   stages 0 to 2: module, shapes of the parameters
            zero_pp_rank_N_mp_rank_00_model_states.pt    stage 3: the same per rank, without values
            zero_pp_rank_N_mp_rank_00_optim_states.pt    stages 1 to 3: part of the fp32 weights of rank N

The files are pickles. They are loaded with ``weights_only``, and stand-ins for the few classes of DeepSpeed in them, so
loading one never runs code from it.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitas_ds.errors import UserError

MODEL, OPTIMIZER = "mp_rank_00_model_states.pt", "mp_rank_00_optim_states.pt"
State = dict[str, Any]


class _Ignored:
    """Stands for an object of DeepSpeed whose content is not needed."""

    def __init__(self, *args: object) -> None:
        pass


_STAND_INS: list[Any] = [
    (int, "deepspeed.runtime.zero.config.ZeroStageEnum"),
    (_Ignored, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (_Ignored, "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler"),
    (_Ignored, "deepspeed.utils.tensor_fragment.fragment_address"),
]


def find(path: Path) -> Path | None:
    """Return the folder of the tag if ``path`` is a checkpoint of DeepSpeed, or a folder with ``latest``; else None."""
    if any(path.glob(f"*{MODEL}")):
        return path
    latest = path / "latest"
    if not latest.is_file():
        return None
    tag = path / latest.read_text().strip()
    if not any(tag.glob(f"*{MODEL}")):
        raise UserError(f"{latest}: names {tag.name}, which is not a checkpoint of DeepSpeed")
    return tag


def consolidate(path: Path) -> dict[str, Tensor]:
    """Return the state dict of the network (fp32, on the CPU) from a checkpoint of any ZeRO stage and number of ranks.

    Args:
        path: Folder of the tag.

    Raises:
        UserError: A file is missing or unreadable, or the layout is not supported.
    """
    model = _read(_model_files(path)[0])
    stage, ranks = _layout(model, path)
    module = {name: value for name, value in model["module"].items() if isinstance(value, Tensor)}
    if stage == 0:
        return _without_wrapper({name: _fp32(value) for name, value in module.items()})
    for rank in range(ranks if stage == 3 else 0):
        _file_of(path, rank, MODEL, ranks)
    shards = [_read(_file_of(path, rank, OPTIMIZER, ranks))["optimizer_state_dict"] for rank in range(ranks)]
    join = _join_parameters if stage == 3 else _join_groups
    parameters = dict(join(model["param_shapes"], shards))
    tensors = {name: _fp32(module[name]) for name in model["buffer_names"]}
    tensors |= _split_flat(parameters, {n: v.shape for n, v in module.items() if n not in tensors}, path)
    for name, source in (model["shared_params"] or {}).items():
        tensors[name] = tensors[source]
    return _without_wrapper(tensors)


def _model_files(path: Path) -> list[Path]:
    files = sorted(path.glob(f"*{MODEL}"))
    if not files:
        raise UserError(f"{path}: not a checkpoint of DeepSpeed, *{MODEL} is missing")
    return files


def _layout(model: State, path: Path) -> tuple[int, int]:
    """Return the ZeRO stage and the number of ranks."""
    try:
        stage, ranks = int(model["ds_config"]["zero_optimization"]["stage"]), int(model["dp_world_size"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: a checkpoint of DeepSpeed without ZeRO stage or number of ranks") from None
    if model.get("mp_world_size", 1) != 1 or model.get("frozen_param_shapes"):
        raise UserError(f"{path}: checkpoints with model parallelism or frozen parameters are not supported")
    return stage, ranks


def _file_of(path: Path, rank: int, kind: str, ranks: int) -> Path:
    """Return a file of a rank. Files of bf16 optimizers have a prefix."""
    name = f"zero_pp_rank_{rank}_{kind}"
    for file in (path / name, path / f"bf16_{name}"):
        if file.is_file():
            return file
    raise UserError(f"{path / name} is missing: {ranks} ranks saved this checkpoint; copy the files of all ranks")


def _read(file: Path) -> State:
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file}: not loaded: contains other objects than tensors and numbers ({reason})") from None
    except (OSError, RuntimeError, EOFError) as error:
        raise UserError(f"{file}: damaged or unreadable ({str(error).splitlines()[0]})") from None
    if not isinstance(state, dict):
        raise UserError(f"{file}: not a file of DeepSpeed")
    return state


def _join_groups(groups: list[Mapping[str, Any]], shards: list[State]) -> Iterator[tuple[str, Tensor]]:
    """Stages 1 and 2: each group is flattened, padded, and split into one equal part per rank."""
    for i, shapes in enumerate(groups):
        flat = torch.cat([shard["single_partition_of_fp32_groups"][i] for shard in shards])
        paddings = (shards[0].get("param_alignment_paddings") or {i: [0] * len(shapes) for i in range(len(groups))})[i]
        start = 0
        for (name, shape), padding in zip(shapes.items(), paddings, strict=True):
            count = math.prod(shape)
            yield name, _fp32(flat[start : start + count]).view(shape)
            start += count + padding


def _join_parameters(groups: list[Mapping[str, Any]], shards: list[State]) -> Iterator[tuple[str, Tensor]]:
    """Stage 3: each parameter is split into one equal part per rank (the last one padded); parts are concatenated."""
    flats = [torch.cat([part.view(-1) for part in shard["fp32_flat_groups"]]) for shard in shards]
    start = 0
    for shapes in groups:
        for name, shape in shapes.items():
            count = math.prod(shape)
            part = math.ceil(count / len(shards))
            yield name, _fp32(torch.cat([flat[start : start + part] for flat in flats])[:count]).view(shape)
            start += part


def _split_flat(parameters: dict[str, Tensor], shapes: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """Cut flat parameters (``models.flat``) into named tensors, whose order is that of the module's state dict.

    Args:
        parameters: Parameters by name.
        shapes: Shapes of the named tensors; an ordinary parameter is one of them.
        path: The checkpoint, for the error message.
    """
    tensors = {name: parameters[name] for name in shapes if name in parameters}
    left: dict[str, list[tuple[str, Tensor]]] = {}  # flat parameters of each module, in order
    for name, value in parameters.items():
        if name not in tensors:
            left.setdefault(name.rpartition(".")[0], []).append((name, value))
    starts = dict.fromkeys(left, 0)
    joined = {module: torch.cat([value.view(-1) for _, value in flats]) for module, flats in left.items()}
    for name, shape in shapes.items():
        if name not in tensors:
            owners = [module for module in joined if not module or name.startswith(f"{module}.")]
            module, count = max(owners, key=len, default=""), math.prod(shape)
            if not owners or starts[module] + count > joined[module].numel():
                raise UserError(f"{path}: no parameter contains {name}")
            tensors[name] = joined[module][starts[module] : starts[module] + count].view(shape)
            starts[module] += count
    return tensors


def _fp32(tensor: Tensor) -> Tensor:
    """Return a copy that does not depend on the file; other numbers than floats keep their type."""
    return (tensor.float() if tensor.is_floating_point() else tensor).detach().clone()


def _without_wrapper(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the name of a module around the network, such as the engine's ``model``."""
    for prefix in ("module.", "model."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors
