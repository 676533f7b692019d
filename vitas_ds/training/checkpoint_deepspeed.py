"""Read checkpoints in DeepSpeed's format, without deepspeed: those of ``engine.save_checkpoint``, and universal ones.

    DIR/latest                                           name of the newest tag
    DIR/TAG/mp_rank_00_model_states.pt                   stages 0 to 2: module, shapes of the parameters
            zero_pp_rank_N_mp_rank_00_model_states.pt    stage 3: the same per rank, without values
            zero_pp_rank_N_mp_rank_00_optim_states.pt    stages 1 to 3: part of the fp32 weights and moments of rank N
            zero/PARAMETER/fp32.pt                       universal: a whole parameter; exp_avg.pt and exp_avg_sq.pt too

The files are pickles. ``checkpoint_pickle`` loads them without running code from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vitas_ds.errors import UserError
from vitas_ds.training.checkpoint_pickle import read_pickle

MODEL, OPTIMIZER = "mp_rank_00_model_states.pt", "mp_rank_00_optim_states.pt"
STATE = "vitas_ds"  # key of our state in the model files
UNIVERSAL = {"weight": "fp32"}  # kinds with another name in a universal checkpoint
State = dict[str, Any]


def find(path: Path) -> Path | None:
    """Return the folder of the tag if ``path`` is a checkpoint of DeepSpeed, or a folder with ``latest``; else None.

    Raises:
        UserError: ``latest`` names a folder without a checkpoint.
    """
    if any(path.glob(f"*{MODEL}")) or any(path.glob("zero/*/fp32.pt")):
        return path
    for latest in (path / "latest", path / "latest_universal"):
        if latest.is_file():
            tag = path / latest.read_text(errors="replace").strip()[:255]
            if not any(tag.glob(f"*{MODEL}")):
                raise UserError(f"{latest}: names {tag.name}, which is not a checkpoint of DeepSpeed")
            return tag
    return None


@dataclass(frozen=True)
class Part:
    """Elements of a parameter, and their place in a flat tensor.

    Attributes:
        source: First element in the flattened parameter.
        length: Number of elements.
        rank: Rank of the file.
        group: Index of the flat tensor in the file.
        offset: First element in the flat tensor.
    """

    source: int
    length: int
    rank: int
    group: int
    offset: int


Parts = dict[str, list[Part]]


class DeepSpeedReader:
    """Access to the parameters in a checkpoint of any ZeRO stage and number of ranks, or in a universal one.

    Args:
        path: Folder of the tag.
        verified: Whether the files have been compared with digests. Otherwise, their own checksums are verified.

    Attributes:
        shapes: Shape of each named tensor of the network.
        buffers: Names of the buffers.
        kinds: Kinds of tensors for each parameter, as in ``Engine.kinds``. A universal checkpoint has no averages.
        universal: Whether the checkpoint is universal.
        state: Our state of the training, if the checkpoint was written by this package.

    Raises:
        UserError: A file is missing or unreadable, or the layout is not supported.
    """

    def __init__(self, path: Path, verified: bool = False) -> None:
        self.path, self._verified = path, verified
        self._files: dict[Path, State] = {}
        files = sorted(path.glob(f"*{MODEL}"))
        if not files:
            raise UserError(f"{path}: not a checkpoint of DeepSpeed, *{MODEL} is missing")
        self._model = self._open(files[0])
        self.stage, self.ranks = _layout(self._model, path)
        self.state: State | None = self._model.get(STATE)
        self.universal = (path / "zero").is_dir()
        self._module = {name: value for name, value in self._model["module"].items() if isinstance(value, Tensor)}
        try:
            saved = self.state["kinds"] if self.state else ["weight"]
            self.kinds = tuple(kind for kind in saved if not self.universal or kind != "ema")
            self._parameters = self._parameter_shapes()
            self._names = list(self._parameters)
            self._parts, self._flat = self._choose_layout()
            self._name_tensors()
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__} {str(error)[:100]}"
            raise UserError(f"{path}: not a checkpoint of DeepSpeed, or of another version ({reason})") from None

    def close(self) -> None:
        """Do nothing: the files are mapped, and use no memory of their own."""

    def read(self, kind: str, name: str, start: int, out: Tensor) -> None:
        """Fill the one-dimensional ``out`` with the elements of a named tensor from ``start`` on."""
        if self.stage == 0 and kind == "weight":
            out.copy_(self._module[self._original[name]].detach().reshape(-1)[start : start + out.numel()])
            return
        parameter, offset = self._places[name]
        first = offset + start
        for part in self._parts[parameter]:
            low, high = max(first, part.source), min(first + out.numel(), part.source + part.length)
            if low < high:
                flat, begin = self._flat(kind, part.rank, part.group).detach().view(-1), part.offset + low - part.source
                if begin + high - low > flat.numel():
                    raise UserError(f"{self.path}: rank {part.rank} has {flat.numel()} elements of {kind}, too few")
                out[low - first : high - first].copy_(flat[begin : begin + high - low])

    def buffer(self, name: str) -> Tensor:
        """Read a buffer of the network."""
        value = self._module[self._original[name]]
        return (value.float() if value.is_floating_point() else value).detach().clone()

    def _open(self, file: Path) -> State:
        if file not in self._files:
            self._files[file] = read_pickle(file, self._verified)
        return self._files[file]

    def _parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter, in the order of the flat tensors."""
        if self.stage:
            return {name: tuple(shape) for group in self._model["param_shapes"] for name, shape in group.items()}
        return dict(self.state["parameters"]) if self.state else {}

    def _choose_layout(self) -> tuple[Parts, Callable[[str, int, int], Tensor]]:
        """Return the parts of each parameter, and a function that reads a kind of flat tensor."""
        if self.universal or self.stage == 0:
            whole = enumerate(self._parameters.items())
            parts = {name: [Part(0, math.prod(shape), 0, index, 0)] for index, (name, shape) in whole}
            return parts, self._flat_universal if self.universal else self._flat_stage0
        for rank in range(self.ranks):
            _file_of(self.path, rank, OPTIMIZER, self.ranks)
            if self.stage == 3:
                _file_of(self.path, rank, MODEL, self.ranks)
        groups = self._model["param_shapes"]
        if self.stage == 3:
            return _split_parameters(groups, self.ranks), self._flat_stage3
        file = _file_of(self.path, 0, OPTIMIZER, self.ranks)
        return _split_groups(groups, self._shard(0), self.ranks, file), self._flat_stage12

    def _shard(self, rank: int) -> State:
        return self._open(_file_of(self.path, rank, OPTIMIZER, self.ranks))["optimizer_state_dict"]

    def _flat_stage0(self, kind: str, rank: int, group: int) -> Tensor:
        return self._model["optimizer"]["state"][group][kind]

    def _flat_stage12(self, kind: str, rank: int, group: int) -> Tensor:
        shard = self._shard(rank)
        weights, moments = shard["single_partition_of_fp32_groups"], shard["base_optimizer_state"]
        return weights[group] if kind == "weight" else moments["state"][group][kind]

    def _flat_stage3(self, kind: str, rank: int, group: int) -> Tensor:
        shard = self._shard(rank)
        weights, moments = shard["fp32_flat_groups"], shard["optimizer_state_dict"]
        return weights[group] if kind == "weight" else moments["state"][group][kind]

    def _flat_universal(self, kind: str, rank: int, group: int) -> Tensor:
        name = self._names[group]
        file = self.path / "zero" / name / f"{UNIVERSAL.get(kind, kind)}.pt"
        if not file.is_file():
            raise UserError(f"{file} is missing: this universal checkpoint is incomplete; convert it again")
        content: Any = read_pickle(file, self._verified)
        value = content["param"] if isinstance(content, dict) else content
        if value.numel() != math.prod(self._parameters[name]):
            raise UserError(f"{file}: {value.numel()} elements, expected {math.prod(self._parameters[name])}")
        return value

    def _name_tensors(self) -> None:
        """Find the named tensors of the network: names without the wrapper, shapes, and places in the parameters."""
        buffers, shared = self._model["buffer_names"], self._model.get("shared_params") or {}
        shapes = {name: tuple(self._parameters.get(name, value.shape)) for name, value in self._module.items()}
        tensors = {name: shape for name, shape in shapes.items() if name not in buffers and name not in shared}
        places = _places(self._parameters, tensors, self.path) if self._parameters else {}
        if places:  # otherwise the weights of stage 0, which need no places
            places |= {name: places[source] for name, source in shared.items()}
            tensors |= {name: tensors[source] for name, source in shared.items()}
        prefix = _wrapper([*tensors, *buffers])
        self._original = {name.removeprefix(prefix): name for name in (*tensors, *buffers)}
        self._places = {name.removeprefix(prefix): place for name, place in places.items()}
        self.shapes = {name.removeprefix(prefix): shape for name, shape in tensors.items()}
        self.buffers = [name.removeprefix(prefix) for name in buffers]


def _layout(model: State, path: Path) -> tuple[int, int]:
    """Return the ZeRO stage and the number of ranks."""
    try:
        stage, ranks = int(model["ds_config"]["zero_optimization"]["stage"]), int(model["dp_world_size"])
        shapes, names = model["param_shapes"] if stage else [], model["buffer_names"]
        valid = 0 <= stage <= 3 and ranks > 0 and isinstance(model["module"], dict) and isinstance(names, list)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: a checkpoint of DeepSpeed without ZeRO stage or number of ranks") from None
    if not valid or not isinstance(shapes, list) or not all(isinstance(group, dict) for group in shapes):
        raise UserError(f"{path}: not a checkpoint of DeepSpeed, its entries have other types")
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


def _split_groups(groups: list[Mapping[str, Any]], first: State, ranks: int, file: Path) -> Parts:
    """Stages 1 and 2: each group is flattened, padded, and split into one equal part per rank.

    Args:
        groups: Shapes of the parameters in each group.
        first: State of rank 0.
        ranks: Number of ranks.
        file: File of rank 0, for the error message.
    """
    parts: Parts = {}
    for i, shapes in enumerate(groups):
        size = first["base_optimizer_state"]["state"][i]["exp_avg"].numel() if i in _states(first) else 0
        size = size or first["single_partition_of_fp32_groups"][i].numel()
        paddings = (first.get("param_alignment_paddings") or {i: [0] * len(shapes) for i in range(len(groups))})[i]
        start = 0
        for (name, shape), padding in zip(shapes.items(), paddings, strict=True):
            end = start + math.prod(shape)
            parts[name] = [
                Part(low - start, min(end, low - low % size + size) - low, low // size, i, low % size)
                for low in (start, *range(start - start % size + size, end, size))
                if low < end
            ]
            start = end + padding
        if ranks * size < start:
            raise UserError(
                f"{file}: {size} elements of group {i}, too few for {ranks} ranks; copy the files of one checkpoint"
            )
    return parts


def _states(shard: State) -> Mapping[int, Any]:
    """Return the optimizer states by group; an optimizer without states has none."""
    base = shard.get("base_optimizer_state")
    states = base.get("state", {}) if isinstance(base, dict) else {}
    return {i: state for i, state in states.items() if "exp_avg" in state}


def _split_parameters(groups: list[Mapping[str, Any]], ranks: int) -> Parts:
    """Stage 3: each parameter is split into one equal part per rank (the last one padded); parts are concatenated."""
    parts: Parts = {}
    for i, shapes in enumerate(groups):
        offset = 0
        for name, shape in shapes.items():
            count = math.prod(shape)
            size = math.ceil(count / ranks)
            lows = [(rank, rank * size) for rank in range(ranks) if rank * size < count]
            parts[name] = [Part(low, min(size, count - low), rank, i, offset) for rank, low in lows]
            offset += size
    return parts


def _places(
    parameters: Mapping[str, tuple[int, ...]], tensors: Mapping[str, tuple[int, ...]], path: Path
) -> dict[str, tuple[str, int]]:
    """Return parameter and first element of each named tensor.

    A flat parameter (``models.flat``) holds several tensors of its module, in the order of the module's state dict.

    Args:
        parameters: Shapes of the parameters.
        tensors: Shapes of the named tensors; an ordinary parameter is one of them.
        path: The checkpoint, for the error message.
    """
    left: dict[str, list[str]] = {}  # flat parameters of each module, in order
    for name in parameters:
        if name not in tensors:
            left.setdefault(name.rpartition(".")[0], []).append(name)
    filled = dict.fromkeys(parameters, 0)
    places = {}
    for name, shape in tensors.items():
        if name in parameters:
            places[name] = name, 0
            continue
        owners, count = [module for module in left if not module or name.startswith(f"{module}.")], math.prod(shape)
        flats = left[max(owners, key=len)] if owners else []
        flat = next((flat for flat in flats if filled[flat] < math.prod(parameters[flat])), None)
        if flat is None or filled[flat] + count > math.prod(parameters[flat]):
            raise UserError(f"{path}: no parameter contains {name}")
        places[name] = flat, filled[flat]
        filled[flat] += count
    return places


def _wrapper(names: list[str]) -> str:
    """Return the common prefix of modules around the network, such as the engine's ``model.``."""
    prefix = ""
    for part in ("module.", "model."):
        if names and all(name.startswith(prefix + part) for name in names):
            prefix += part
    return prefix
