"""Stage retrain: one spec from scratch, as a plain vision transformer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.published import find_spec
from vitas_ds.arch.spec import SubnetSpec, read_spec
from vitas_ds.config import Config
from vitas_ds.data.sources import ImageSet, read_folder
from vitas_ds.distributed import comm
from vitas_ds.distributed.comm import Ranks
from vitas_ds.errors import UserError
from vitas_ds.export.folder import Preprocess, write_model
from vitas_ds.models.layers import init_weights
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.run.files import write_json
from vitas_ds.run.run_dir import RunDir, read_summary, run_of, update_summary
from vitas_ds.run.start import find_run, open_run
from vitas_ds.search.results import select
from vitas_ds.training import checkpoint
from vitas_ds.training.losses import loss_of
from vitas_ds.training.replay import replay
from vitas_ds.training.trainer import Task, train


def run(config: Config) -> None:
    """Train the net that ``retrain.spec`` names on all training images; it has seen none of ``data.val``."""
    ranks = comm.init(config.run.device, config.run.timeout)
    folder = find_run(config)
    spec = chosen_spec(config, folder)
    if folder.retrain_weights.exists():
        if ranks.is_main:
            print(f"retrain: done already, {read_summary(folder).get('retrain', {}).get('steps', '?')} steps")
        return
    images = read_folder(config.data.train, config.data.exclude, config.space.num_classes)
    open_run(config, ranks.is_main, stage="retrain", world_size=ranks.world_size)
    if ranks.is_main and not folder.retrain_spec.exists():
        write_json(folder.retrain_spec, spec.to_dict())
    numbers = train(_task(config, folder, spec, images), config, folder, ranks)
    _finish(config, folder, ranks, spec, images, numbers)


def again(config: Config, file: str) -> None:
    """Compute a step of a record of divergence again (the run's own if ``file`` is empty); prints what is seen."""
    ranks, folder = comm.init(config.run.device, config.run.timeout), run_of(config)
    images = read_folder(config.data.train, config.data.exclude, config.space.num_classes)
    task = _task(config, folder, chosen_spec(config, folder), images)
    for line in replay(task, config, Path(file) if file else folder.retrain.divergence, ranks):
        print(line)


def chosen_spec(config: Config, folder: RunDir) -> SubnetSpec:
    """The spec to train, with the recipe's image size and classes.

    Raises:
        UserError: there is no such spec, or the run has begun to train another one.
    """
    word = config.retrain.spec
    found = select(folder, word) if word.startswith("search:") else find_spec(word)
    spec = replace(found.canonical(), image_size=config.space.image_size, num_classes=config.space.num_classes)
    if spec.image_size % spec.patch_size:
        raise UserError(f"retrain.spec: patch_size {spec.patch_size} does not divide image_size {spec.image_size}")
    if folder.retrain_spec.exists() and read_spec(folder.retrain_spec) != spec:
        raise UserError(
            f"retrain.spec: {word} is another net than {folder.retrain_spec}, which this run trains; "
            f"move {folder.retrain.path} away, or give another run.name"
        )
    return spec


def _task(config: Config, folder: RunDir, spec: SubnetSpec, images: ImageSet) -> Task:
    model = VisionTransformer(
        spec, config.retrain.drop_path_rate, config.engine.grad_checkpointing, class_token_only=True
    )
    init_weights(model, config.run.seed, config.retrain.init_std)
    if config.engine.compile:
        model.compile()

    def losses(net: Callable[..., Tensor], images: Tensor, targets: Tensor, step: int) -> Iterator[Tensor]:
        yield loss_of(net(images)[None], targets, "loss_mean")

    return Task(
        "retrain", config.retrain, folder.retrain, model, {"all": list(model.parameters())}, images,
        config.space.num_classes, losses, lambda step: {"all"}, nets=lambda step: [spec],
    )  # fmt: skip


def _finish(
    config: Config, folder: RunDir, ranks: Ranks, spec: SubnetSpec, images: ImageSet, numbers: dict[str, Any]
) -> None:
    """The last checkpoint becomes a model folder."""
    newest = checkpoint.newest(folder.retrain.checkpoints)  # all ranks ask
    assert newest is not None, "training ends with a checkpoint"
    if ranks.is_main:
        model = VisionTransformer(spec)
        with torch.no_grad():
            model.load_state_dict(checkpoint.consolidate(newest, ema=config.retrain.ema_decay > 0))
        data = config.data
        preprocess = Preprocess(data.resize, data.mean, data.std, images.classes)
        write_model(model, folder.retrain_model, preprocess, folder.name, {"accuracy": "not evaluated"})
        update_summary(folder, "retrain", numbers | {"macs": spec_macs(spec)})
        print(f"retrain: {numbers['steps']} steps, loss {numbers['loss']:.4f}, {folder.retrain_model}")
    comm.barrier()
