"""Code that several stages share: start and progress, input images, input models."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitas_ds.arch.published import names
from vitas_ds.config import Config
from vitas_ds.data import synthetic
from vitas_ds.data.sources import ImageSet, hold_out, read_folder
from vitas_ds.distributed import preemption
from vitas_ds.distributed.comm import Ranks
from vitas_ds.distributed.watchdog import Watchdog
from vitas_ds.errors import UserError
from vitas_ds.export.folder import Preprocess
from vitas_ds.export.hub import local_folder
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.start import open_run
from vitas_ds.run.tracker import Tracker
from vitas_ds.run.tracking import open_tracker


@contextmanager
def running(config: Config, stage: str, ranks: Ranks, total: int, later: float = math.nan) -> Iterator[Tracker]:
    """Open the run folder, catch signals, watch the ranks, and track ``total`` steps of a stage.

    ``later`` is the computation of the later stages, relative to that of this one.
    """
    run = open_run(config, ranks.is_main, stage=stage, world_size=ranks.world_size)
    with (
        preemption.catch_signals(),
        Watchdog(run.life, stage, ranks, config.run.timeout),
        open_tracker(config, run, stage, ranks.is_main, total=total, later=later) as tracker,
    ):
        yield tracker


def training_images(config: Config) -> ImageSet:
    """Read all images of ``data.train``, or return random ones."""
    if config.data.synthetic:
        return synthetic.training_images(config)
    return read_folder(config.data.train, config.data.exclude, config.space.num_classes)


def split_training_images(config: Config) -> tuple[ImageSet, ImageSet]:
    """Split ``data.train`` into the training images of the supernet and the search images."""
    return hold_out(training_images(config), config.data.search_per_class, config.run.seed)


def read_val(config: Config) -> ImageSet:
    """Read all images of ``data.val``, or return random ones."""
    return synthetic.validation_images(config) if config.data.synthetic else read_folder(config.data.val)


def validation_images(config: Config, model: VisionTransformer, preprocess: Preprocess, source: str) -> ImageSet:
    """Read ``data.val``, or return random images.

    Raises:
        UserError: The classes differ from those of the model, which was read from ``source``.
    """
    images = read_val(config)
    if len(images.classes) != model.spec.num_classes or preprocess.classes not in ((), images.classes):
        raise UserError(f"data.val: {config.data.val} has other classes than {source} was trained on")
    return images


def model_folder(model: str, field: str, run: RunDir) -> Path:
    """Return the folder of the model that ``evaluate.model`` or ``export.model`` (``field``) names.

    Raises:
        UserError: The stage retrain has not finished, or the name is that of a published network.
    """
    if model == "retrain":
        if not run.retrain_weights.exists():
            raise UserError(f"{field}: {run.retrain_weights} does not exist; run the stage retrain first")
        return run.retrain_model
    if model in names() and not Path(model).is_dir():
        raise UserError(
            f"{field}: {model} is a published network without weights; give the folder of an exported model "
            "(see `import`), or train it with retrain.spec"
        )
    return local_folder(model)
