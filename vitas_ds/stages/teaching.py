"""Load the teacher of a training stage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from vitas_ds.arch.cost import spec_macs
from vitas_ds.config import Config, Teacher, Training
from vitas_ds.data.sources import ImageSet
from vitas_ds.engine.precision import compiles_network
from vitas_ds.errors import UserError
from vitas_ds.export.folder import Preprocess, read_model, read_preprocess, weights_digest
from vitas_ds.export.timm_architecture import spec_of
from vitas_ds.export.weights import read_weights
from vitas_ds.models.shapes import check_shapes, shapes_of
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.run.files import file_digest
from vitas_ds.stages.model_folders import INIT, TIMM, check_teacher, find_model
from vitas_ds.stages.source_run import supernet_run
from vitas_ds.training.teacher import Normalization, TeacherNetwork, freeze

Found = tuple[nn.Module, Normalization, str]  # network, normalization of its images, digest


def load_teacher(config: Config, section: str, images: ImageSet, device: torch.device) -> TeacherNetwork | None:
    """Return the teacher of a training stage, on the device; None if ``teacher.model`` is not set.

    Args:
        config: Configuration of the run.
        section: ``supernet`` or ``retrain``.
        images: The training images.
        device: Device of the batches.

    Raises:
        UserError: The network does not exist, or it was trained for other classes or another image size.
    """
    training: Training = getattr(config, section)
    if training.teacher.model is None:
        return None
    teacher = _resolved(config, training.teacher)
    check_teacher(teacher, section, config.space)
    is_timm = str(teacher.model).startswith(TIMM)
    model, normalization, digest = (_timm_network if is_timm else _own_network)(teacher, section, images)
    if is_timm:
        _check_size(str(teacher.model), section, model, config.space.image_size)
    macs = _count_macs(model)
    if compiles_network(config.engine, device):
        model.compile()
    found = freeze(model, digest, normalization, config.data, config.engine.precision, device)
    return replace(found, macs=macs)


def _resolved(config: Config, teacher: Teacher) -> Teacher:
    """Replace ``init``, the network of ``supernet.init``, by its folder in the run or in that of the supernet."""
    if teacher.model != INIT:
        return teacher
    return teacher.model_copy(update={"model": str(supernet_run(config).pretrained)})


def _count_macs(model: nn.Module) -> int:
    """Count the multiply-accumulates of an image; 0 for a network that ``SubnetSpec`` does not describe."""
    if isinstance(model, VisionTransformer):
        return spec_macs(model.spec)
    try:
        return spec_macs(spec_of(model, type(model).__name__))
    except (UserError, AttributeError):
        return 0


def _own_network(teacher: Teacher, section: str, images: ImageSet) -> Found:
    """Load an exported model or the network of a run."""
    field = f"{section}.teacher.model"
    folder = find_model(str(teacher.model), field)
    model, preprocess = read_model(folder), read_preprocess(folder)
    check_classes(folder, field, preprocess, images)
    model.class_token_only = True
    return model, (preprocess.mean, preprocess.std), _digest(folder, model, preprocess)


def _timm_network(teacher: Teacher, section: str, images: ImageSet) -> Found:
    """Build a network of timm with the weights of a local file. Its classes are taken to be in the order of ours."""
    name, path = str(teacher.model).removeprefix(TIMM), Path(str(teacher.weights))
    try:
        import timm
    except ImportError:
        raise UserError(f"{section}.teacher.model: timm is not installed; pip install timm") from None
    try:
        known = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # of an unknown tag
        known = None
    if known is None:
        raise UserError(f"{section}.teacher.model: timm {timm.__version__} has no network {name}")
    tensors, _ = read_weights(path)
    settings = cast(Any, known).to_dict()
    found, expected = _class_count(tensors, settings["classifier"]), len(images.classes)
    if found not in (0, expected):
        raise UserError(f"{section}.teacher.weights: {path} has {found} classes, space.num_classes is {expected}")
    model = timm.create_model(name, pretrained=False, num_classes=expected)
    check_shapes(
        f"{section}.teacher.weights: {path}: not the weights of {name}", shapes_of(tensors),
        shapes_of(model.state_dict()),
    )  # fmt: skip
    model.load_state_dict(tensors)
    normalization = settings["mean"], settings["std"]
    return model, normalization, _sha256([file_digest(path), name, *normalization])


def _class_count(tensors: Mapping[str, Tensor], classifier: str | Sequence[str]) -> int:
    """Return the number of classes of a file's classifier; 0 if it has none of this name."""
    name = classifier if isinstance(classifier, str) else classifier[0]
    return len(tensors.get(f"{name}.weight", ()))


def _check_size(name: str, section: str, model: nn.Module, image_size: int) -> None:
    """Check that a network of timm accepts the images; convolutional networks accept all sizes."""
    settings = cast(dict[str, Any], model.pretrained_cfg)
    found = settings["input_size"][-1]
    if settings.get("fixed_input_size") and found != image_size:
        raise UserError(
            f"{section}.teacher.model: {name} has image_size {found}, space.image_size is {image_size}; they must be "
            "equal"
        )


def check_classes(folder: Path, field: str, preprocess: Preprocess, images: ImageSet) -> None:
    """Check that a model was trained on the classes of the images, in their order.

    Raises:
        UserError: It was not. Unknown class names are accepted.
    """
    if preprocess.classes not in ((), images.classes):
        raise UserError(f"{field}: {folder} was trained on other classes than those in {images.root}")


def _digest(folder: Path, model: VisionTransformer, preprocess: Preprocess) -> str:
    """Return a digest of weights, architecture and normalization."""
    return _sha256([weights_digest(folder), model.spec.to_dict(), preprocess.mean, preprocess.std])


def _sha256(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
