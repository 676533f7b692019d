"""Find the trained networks named by settings, and check them. Importing this module does not import torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vitas_ds.arch import genome
from vitas_ds.arch.published import names
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import SubnetSpec, read_spec
from vitas_ds.config import Teacher
from vitas_ds.errors import UserError
from vitas_ds.export.hub import local_folder
from vitas_ds.run.run_dir import RunDir

TIMM = "timm:"  # prefix of a network of timm
INIT = "init"  # as a teacher: the network of supernet.init


def find_model(path: str, field: str) -> Path:
    """Return the folder of the exported model named by a setting: the folder itself, or the network of a run.

    Args:
        path: Folder of an exported model, ``hf://USER/NAME``, or folder of a run with a retrained network.
        field: The setting, for error messages.

    Raises:
        UserError: The folder has no trained network.
    """
    folder = local_folder(path)
    run = RunDir(folder)
    if (folder / "model.safetensors").is_file():
        return folder
    if run.retrain_weights.is_file():
        return run.retrain_model
    if is_unfinished(path):
        raise UserError(f"{field}: {path}: this run has not retrained a network yet; finish its stage retrain first")
    if path in names():
        raise UserError(f"{field}: {path} is a published network without weights; train it with retrain.spec={path}")
    raise UserError(f"{field}: {path}: not the folder of an exported model or of a run")


def is_checkpoint(path: str) -> bool:
    """Return whether the folder is a training checkpoint or contains some, in our format or in that of DeepSpeed."""
    names = ("manifest.json", "step-*/manifest.json", "latest", "latest_universal", "*mp_rank_00_model_states.pt")
    return not RunDir(Path(path)).config.is_file() and any(True for name in names for _ in Path(path).glob(name))


def spec_of_init(init: str) -> SubnetSpec:
    """Return the spec of the network whose weights ``retrain.init`` names.

    Raises:
        UserError: The network does not exist, or it is a checkpoint without ``spec.json``.
    """
    if not is_checkpoint(init):
        return read_spec(find_model(init, "retrain.init") / "spec.json")
    path = Path(init).absolute()
    for folder in (path, *path.parents[:2]):  # the checkpoints of a run are in retrain/checkpoints
        if (folder / "spec.json").is_file():
            return read_spec(folder / "spec.json")
    raise UserError(f"retrain.spec: {init} is a checkpoint without spec.json; set retrain.spec to the network in it")


def is_unfinished(path: str) -> bool:
    """Return whether the folder is that of a run which has no retrained network yet."""
    run = RunDir(Path(path))
    return run.config.is_file() and not run.retrain_weights.is_file()


def check_teacher(teacher: Teacher, section: str, space: SearchSpace) -> None:
    """Check that a teacher exists, with the image size and the number of classes of the recipe.

    Raises:
        UserError: It does not. The classes of a network of timm are checked when its weights are read.
    """
    assert teacher.model is not None
    field = f"{section}.teacher.model"
    if not teacher.model.startswith(TIMM):
        is_name = "/" not in teacher.model and not Path(teacher.model).exists()
        if teacher.weights is not None and is_name:
            raise UserError(
                f"{field}: {teacher.model}: no such folder; a network of timm is {field}=timm:{teacher.model}"
            )
        check_fits(find_model(teacher.model, field), field, space)
    elif teacher.weights is None:
        raise UserError(f"{field}: {teacher.model}: give the file of its weights: {section}.teacher.weights=FILE")
    elif not Path(teacher.weights).is_file():
        raise UserError(f"{section}.teacher.weights: {teacher.weights}: no such file")


def check_fits(folder: Path, field: str, space: SearchSpace) -> None:
    """Check that a model has the image size and the number of classes of the recipe.

    Raises:
        UserError: One of them differs.
    """
    spec = read_spec(folder / "spec.json")
    for name in ("image_size", "num_classes"):
        found, expected = getattr(spec, name), getattr(space, name)
        if found != expected:
            raise UserError(f"{field}: {folder} has {name} {found}, space.{name} is {expected}; they must be equal")


def check_inherits(spec: SubnetSpec, space: SearchSpace) -> None:
    """Check that the supernet of a space has weights for a network, whatever its image size and number of classes.

    Raises:
        UserError: It does not.
    """
    try:
        genome.encode(space, replace(spec, image_size=space.image_size, num_classes=space.num_classes))
    except UserError as error:
        raise UserError(f"retrain.init: supernet: {error}; use retrain.init=scratch") from None
