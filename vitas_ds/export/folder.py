"""An exported model: a folder with ``model.safetensors``, ``spec.json``, ``preprocess.json`` and a model card.

``config.json`` repeats its shape and the card's facts for programs; as it is, the folder is one for a model hub.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vitas_ds.arch.cost import spec_macs, spec_params
from vitas_ds.arch.spec import SubnetSpec, read_spec
from vitas_ds.config import Data
from vitas_ds.errors import UserError, first_error
from vitas_ds.export.card import LICENSE, model_card
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.run.files import write_json, write_text

Facts = dict[str, object]  # rows of a model card


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an image becomes the model's input: resize the shorter side, crop the centre, normalise RGB in [0, 1]."""

    resize: int = 256
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    classes: tuple[str, ...] = ()

    def apply_to(self, data: Data) -> Data:
        """``data`` with this preprocessing, so that the evaluation graph prepares images as the model expects them."""
        return data.model_copy(update={"resize": self.resize, "mean": self.mean, "std": self.std})


@contextmanager
def whole_folder(directory: Path) -> Iterator[Path]:
    """An empty folder beside ``directory`` that takes its name at the end of the block; on an error it goes away.

    What bore the name stays whole until then. A process that is killed leaves the old folder, the new one, or none.

    Raises:
        UserError: there is no place to write it.
    """
    directory = Path(os.path.realpath(directory))
    aside, old = (directory.with_name(f".{directory.name}.{end}") for end in ("tmp", "old"))
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{directory}: cannot be written ({error.strerror})") from None
    try:
        yield aside
        for path in (*aside.rglob("*"), aside):
            _flush(path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        directory.rename(old)
    aside.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_model(model: VisionTransformer, directory: Path, preprocess: Preprocess, name: str, facts: Facts,
                license: str = LICENSE) -> None:  # fmt: skip
    """Write an exported model called ``name``, whole or not at all; ``facts`` are rows of its card."""
    with whole_folder(directory) as aside:
        write_files(model, aside, preprocess, facts)
        write_text(aside / "README.md", model_card(model.spec, name, facts, license=license))


def write_files(model: VisionTransformer, directory: Path, preprocess: Preprocess, facts: Facts) -> None:
    """Write an exported model's files but the card into an empty folder; tensors are float32."""
    tensors = {name: value.detach().float().cpu().contiguous() for name, value in model.state_dict().items()}
    write_tensors(directory / "model.safetensors", tensors)
    write_json(directory / "spec.json", model.spec.to_dict())
    write_json(directory / "preprocess.json", asdict(preprocess))
    write_json(directory / "config.json", _hub_config(model.spec, preprocess, facts))


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file that others may read as the umask says; ``save_file`` keeps it to the owner."""
    path.write_bytes(save(tensors, metadata={"format": "pt"}))


def _hub_config(spec: SubnetSpec, preprocess: Preprocess, facts: Facts) -> dict[str, Any]:
    fields = ("image_size", "patch_size", "embed_dim", "depth", "num_classes")
    shape = {name: getattr(spec, name) for name in fields}
    shape |= {"parameters": spec_params(spec), "macs": spec_macs(spec)}
    labels = {"id2label": dict(enumerate(preprocess.classes))} if preprocess.classes else {}
    return {"model_type": "vitas", "architectures": ["VisionTransformer"]} | shape | labels | {"facts": facts}


def read_model(directory: Path) -> VisionTransformer:
    """The model of an exported folder, in evaluation mode, float32 on the CPU.

    Raises:
        UserError: the folder is no exported model, or its tensors do not fit its ``spec.json``.
    """
    weights = directory / "model.safetensors"
    if not weights.is_file():
        raise UserError(f"{directory}: not an exported model: {weights.name} is missing")
    spec = read_spec(directory / "spec.json")
    try:
        tensors = load(weights.read_bytes())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{weights}: not a safetensors file, or a damaged one ({error})") from None
    with torch.device("meta"):  # names and shapes alone
        expected = VisionTransformer(spec).state_dict()
    wrong = _misfit(tensors, expected)
    if wrong:
        raise UserError(f"{weights}: does not fit {directory / 'spec.json'}: {wrong}")
    model = VisionTransformer(spec)
    model.load_state_dict(tensors)
    return model.eval()


def weights_digest(directory: Path) -> str | None:
    """SHA-256 of an exported model's weights; None where there are none."""
    weights = directory / "model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None


def _misfit(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> str:
    """What is wrong with the tensors of a file; empty if nothing is."""
    for name, value in expected.items():
        if name not in tensors:
            return f"tensor {name} is missing"
        if tensors[name].shape != value.shape:
            return f"{name} has shape {list(tensors[name].shape)}, not {list(value.shape)}"
        if not tensors[name].is_floating_point():
            return f"{name} is {str(tensors[name].dtype).removeprefix('torch.')}, not floating point"
    extra = sorted(tensors.keys() - expected.keys())
    return f"there is no place for tensor {extra[0]}" if extra else ""


def read_preprocess(directory: Path) -> Preprocess:
    """How images of an exported model are prepared; ImageNet's usual values where the folder does not say.

    Raises:
        UserError: ``preprocess.json`` cannot be read or holds something else.
    """
    path = directory / "preprocess.json"
    if not path.is_file():
        warnings.warn(f"{path} is missing: images are prepared as ImageNet's usually are, resize 256", stacklevel=2)
        return Preprocess()
    try:
        found = TypeAdapter(Preprocess).validate_json(path.read_bytes())
        Data(resize=found.resize, mean=found.mean, std=found.std)  # knows what is possible
        return found
    except ValidationError as error:
        raise UserError(f"{path}: {first_error(error)}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def read_facts(directory: Path) -> Facts:
    """The facts of an exported model's card; none where ``config.json`` is missing or is another program's."""
    try:
        facts = json.loads((directory / "config.json").read_text())["facts"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return facts if isinstance(facts, dict) else {}
