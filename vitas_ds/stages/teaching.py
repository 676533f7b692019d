"""Load the teacher of a training stage."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from vitas_ds.config import Config, Training
from vitas_ds.data.sources import ImageSet
from vitas_ds.engine.precision import compiles_network
from vitas_ds.errors import UserError
from vitas_ds.export.folder import Preprocess, read_model, read_preprocess, weights_digest
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.stages.model_folders import check_fits, find_model
from vitas_ds.training.teacher import TeacherNetwork, freeze


def load_teacher(config: Config, section: str, images: ImageSet, device: torch.device) -> TeacherNetwork | None:
    """Return the teacher of a training stage, on the device; None if ``teacher.model`` is not set.

    Args:
        config: Configuration of the run.
        section: ``supernet`` or ``retrain``.
        images: The training images.
        device: Device of the batches.

    Raises:
        UserError: There is no such network, or it was trained for other classes or another image size.
    """
    training: Training = getattr(config, section)
    if training.teacher.model is None:
        return None
    field = f"{section}.teacher.model"
    folder = find_model(training.teacher.model, field)
    check_fits(folder, field, config.space)
    model, preprocess = read_model(folder), read_preprocess(folder)
    check_classes(folder, field, preprocess, images)
    digest = _digest(folder, model, preprocess)
    model.class_token_only = True
    if compiles_network(config.engine, device):
        model.compile()
    return freeze(model, digest, (preprocess.mean, preprocess.std), config.data, config.engine.precision, device)


def check_classes(folder: Path, field: str, preprocess: Preprocess, images: ImageSet) -> None:
    """Check that a model was trained on the classes of the images, in their order.

    Raises:
        UserError: It was not. Unknown class names are accepted.
    """
    if preprocess.classes not in ((), images.classes):
        raise UserError(f"{field}: {folder} was trained on other classes than those in {images.root}")


def _digest(folder: Path, model: VisionTransformer, preprocess: Preprocess) -> str:
    """Return a digest of weights, architecture and normalization."""
    parts = [weights_digest(folder), model.spec.to_dict(), preprocess.mean, preprocess.std]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
