"""Exported models: folders with ``model.safetensors``, ``spec.json``, ``preprocess.json`` and a model card.

``config.json`` repeats the shape and the facts of the card in machine-readable form. The folder can be uploaded to a
model hub without changes.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from vitas_ds.arch.cost import spec_macs, spec_params
from vitas_ds.arch.spec import SubnetSpec, read_spec
from vitas_ds.config import Data
from vitas_ds.errors import UserError, first_error
from vitas_ds.errors.reading import read_bytes
from vitas_ds.export import digests
from vitas_ds.export.card import LICENSE, model_card
from vitas_ds.export.weights import load_safetensors
from vitas_ds.models.shapes import check_finite, check_shapes, shapes_of
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.run.files import file_digest, read_json, sync_file, write_json, write_tensors, write_text

SAFETENSORS_METADATA = {"format": "pt"}  # expected by Hugging Face libraries
Facts = dict[str, object]  # rows of the table of a model card
WRITTEN = (*digests.FILES, "config.json", "README.md", "order.json", "timm", "model.*", "model_int8.onnx")  # patterns


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Preprocessing of an image: resize the shorter side, crop the center, normalize RGB in [0, 1]."""

    resize: int = 256
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    classes: tuple[str, ...] = ()

    def describe(self, size: int) -> str:
        """Describe the preprocessing for images of ``size`` pixels."""
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"shorter side to {self.resize}, center crop of {size}, RGB in [0, 1], mean {mean}, std {std}"

    def apply_to(self, data: Data) -> Data:
        """Return ``data`` with this preprocessing, for the evaluation pipeline."""
        return data.model_copy(update={"resize": self.resize, "mean": self.mean, "std": self.std})


@contextmanager
def atomic_folder(directory: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that replaces ``directory`` at the end of the block; remove it on an error.

    ``directory`` is not changed before the end of the block. A killed process leaves the complete old folder or the
    complete new one. If the old one has the name ``.NAME.old`` only, the next call gives it back its own. Files in the
    old folder that no export writes are in the new one, too.

    Raises:
        UserError: The temporary folder cannot be created.
    """
    directory = Path(os.path.realpath(directory))  # replace the target of a symbolic link, not the link
    aside, old = (directory.with_name(f".{directory.name}.{suffix}") for suffix in ("tmp", "old"))
    try:
        if old.exists() and not directory.exists():  # a kill between the two renames
            old.rename(directory)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{directory}: cannot be written ({error.strerror})") from None
    try:
        yield aside
        for path in aside.rglob("*"):
            sync_file(path)
        for path in other_files(directory):
            _link(path, aside / path.name)
        sync_file(aside)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        directory.rename(old)
    aside.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def other_files(directory: Path) -> list[Path]:
    """Return the files and folders in a folder that no export writes."""
    paths = sorted(directory.iterdir()) if directory.is_dir() else []
    return [path for path in paths if not any(fnmatch(path.name, pattern) for pattern in WRITTEN)]


def check_replaceable(directory: Path) -> None:
    """Check that a folder may be replaced by an exported model.

    Raises:
        UserError: It has other content than an exported model, or it contains the current folder.
    """
    if Path.cwd().is_relative_to(directory.resolve()):
        raise UserError(f"{directory}: contains the current folder and cannot be replaced; choose another one")
    others = other_files(directory)
    if others and not (directory / "model.safetensors").is_file():
        raise UserError(f"{directory}: is not an exported model (it has {others[0].name}); choose another folder")


def _link(source: Path, target: Path) -> None:
    """Give a file or all files of a folder a second name. Without hard links on this disk, copy them."""
    if source.is_dir() and not source.is_symlink():
        target.mkdir()
        for path in source.iterdir():
            _link(path, target / path.name)
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def write_model(model: VisionTransformer, directory: Path, preprocess: Preprocess, name: str, facts: Facts,
                license: str = LICENSE) -> None:  # fmt: skip
    """Write an exported model called ``name`` atomically; ``facts`` are additional rows of its card."""
    with atomic_folder(directory) as aside:
        write_model_files(model, aside, preprocess, facts)
        write_text(aside / "README.md", model_card(model.spec, name, facts, license=license))


def write_model_files(model: VisionTransformer, directory: Path, preprocess: Preprocess, facts: Facts) -> None:
    """Write the files of an exported model, except the card, into an empty folder. Tensors are float32."""
    tensors = {name: value.detach().float().cpu().contiguous() for name, value in model.state_dict().items()}
    write_tensors(directory / "model.safetensors", tensors, SAFETENSORS_METADATA)
    write_json(directory / "spec.json", model.spec.to_dict())
    write_json(directory / "preprocess.json", asdict(preprocess))
    config = _hub_config(model.spec, preprocess, facts)
    write_json(directory / "config.json", config | digests.digests_of(directory))


def _hub_config(spec: SubnetSpec, preprocess: Preprocess, facts: Facts) -> dict[str, Any]:
    fields = ("image_size", "patch_size", "embed_dim", "depth", "num_classes")
    shape = {name: getattr(spec, name) for name in fields}
    shape |= {"parameters": spec_params(spec), "macs": spec_macs(spec)}
    labels = {"id2label": dict(enumerate(preprocess.classes))} if preprocess.classes else {}
    return {"model_type": "vitas", "architectures": ["VisionTransformer"]} | shape | labels | {"facts": facts}


def read_model(directory: Path) -> VisionTransformer:
    """Load the model of an exported folder: float32, on the CPU, in evaluation mode.

    Raises:
        UserError: The folder is not an exported model, the tensors do not match ``spec.json``, or a file was changed.
    """
    weights = directory / "model.safetensors"
    if not weights.is_file():
        raise UserError(f"{directory}: not an exported model: {weights.name} is missing")
    digests.check_file(directory / "spec.json")
    spec = read_spec(directory / "spec.json")
    digests.check_file(weights)
    tensors = load_safetensors(weights)
    with torch.device("meta"):  # names and shapes only: a wrong spec may describe a network larger than the memory
        expected = shapes_of(VisionTransformer(spec).state_dict())
    where = f"{weights}: does not match {directory / 'spec.json'}"
    check_shapes(where, shapes_of(tensors), expected)
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise UserError(f"{where}: tensor {name} is {str(tensor.dtype).removeprefix('torch.')}, not floating point")
    check_finite(str(weights), tensors)
    model = VisionTransformer(spec)
    model.load_state_dict(tensors)
    return model.eval()


def file_digests(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a folder."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): file_digest(path) for path in files}


def weights_digest(directory: Path) -> str | None:
    """Return the SHA-256 of the weights of an exported model, or None if the file is missing."""
    weights = directory / "model.safetensors"
    return file_digest(weights) if weights.is_file() else None


def read_preprocess(directory: Path) -> Preprocess:
    """Load the preprocessing of an exported model. The default is the usual one of ImageNet, with a warning.

    Raises:
        UserError: ``preprocess.json`` cannot be read, is invalid or was changed.
    """
    path = directory / "preprocess.json"
    digests.check_file(path)
    if not path.is_file():
        warnings.warn(f"{path} is missing: using the usual preprocessing of ImageNet with resize 256", stacklevel=2)
        return Preprocess()
    try:
        found = TypeAdapter(Preprocess).validate_json(read_bytes(path))
        Data(resize=found.resize, mean=found.mean, std=found.std)  # checks the values
        return found
    except ValidationError as error:
        raise UserError(f"{path}: {first_error(error)}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def read_facts(directory: Path) -> Facts:
    """Return the facts of an exported model's card; empty if ``config.json`` is missing or has another format."""
    try:
        facts = read_json(directory / "config.json", {})["facts"]
    except (UserError, KeyError):
        return {}
    return facts if isinstance(facts, dict) else {}
