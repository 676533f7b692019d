"""Stage retrain: train one spec as a plain vision transformer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.published import find_spec
from vitas_ds.arch.spec import SubnetSpec, check_spec, read_spec
from vitas_ds.config import RANDOM_IMAGES, Config
from vitas_ds.data.sources import ImageSet
from vitas_ds.distributed import comm
from vitas_ds.distributed.comm import Ranks
from vitas_ds.engine import precision
from vitas_ds.engine.ds_config import zero_stage
from vitas_ds.errors import UserError
from vitas_ds.export.folder import Preprocess, write_model
from vitas_ds.models.layers import init_weights
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.run.files import write_json
from vitas_ds.run.run_dir import RunDir, run_of, update_summary
from vitas_ds.run.start import find_run, open_run
from vitas_ds.search.results import select
from vitas_ds.stages.common import training_images
from vitas_ds.stages.initial_weights import make_init
from vitas_ds.stages.teaching import load_teacher
from vitas_ds.stages.training import is_trained, last_checkpoint, print_replay
from vitas_ds.training.checkpoint_reader import consolidate
from vitas_ds.training.losses import cross_entropy, loss_with_teacher
from vitas_ds.training.task import Task
from vitas_ds.training.trainer import train


def run(config: Config) -> None:
    """Train the network that ``retrain.spec`` names on all training images, search images included."""
    ranks = comm.init(config.run.device, config.run.timeout)
    run_dir = find_run(config)
    spec = chosen_spec(config, run_dir)
    if is_trained("retrain", run_dir.retrain_weights, run_dir, ranks):
        return
    images = training_images(config)
    task = make_task(config, run_dir, ranks, spec, images)
    open_run(config, ranks.is_main, stage="retrain", world_size=ranks.world_size)
    if ranks.is_main and not run_dir.retrain_spec.exists():
        write_json(run_dir.retrain_spec, spec.to_dict())
    numbers = train(task, run_dir, ranks)
    _finish(config, run_dir, ranks, spec, images, numbers)


def replay_step(config: Config, file: str) -> None:
    """Compute the first step of a divergence record again and print it; an empty ``file`` is the run's own record."""
    ranks, run_dir = comm.init(config.run.device, config.run.timeout), run_of(config)
    images = training_images(config)
    print_replay(make_task(config, run_dir, ranks, chosen_spec(config, run_dir), images), file, ranks)


def chosen_spec(config: Config, run_dir: RunDir) -> SubnetSpec:
    """Return the spec to train, with the image size and the number of classes of the recipe.

    Raises:
        UserError: The spec is missing or invalid, or the run already trains another one.
    """
    choice = config.retrain.spec
    found = select(run_dir, choice) if choice.startswith("search:") else find_spec(choice)
    spec = replace(found.canonical(), image_size=config.space.image_size, num_classes=config.space.num_classes)
    check_spec(spec, "retrain.spec")
    if run_dir.retrain_spec.exists() and read_spec(run_dir.retrain_spec) != spec:
        raise UserError(
            f"retrain.spec: {choice} is not the network in {run_dir.retrain_spec}, which this run trains; "
            f"move {run_dir.retrain.path} away, or give another run.name"
        )
    return spec


def make_task(config: Config, run_dir: RunDir, ranks: Ranks, spec: SubnetSpec, images: ImageSet) -> Task:
    """Return the training task with a newly initialized network.

    Raises:
        UserError: ``retrain.init`` or the teacher is missing, or does not fit.
    """
    precision.set_backends(config.engine)  # replay has no engine
    model = VisionTransformer(
        spec, config.retrain.drop_path_rate, config.engine.grad_checkpointing, class_token_only=True
    )
    init_weights(model, config.run.seed, config.retrain.init_std)
    init = make_init(config, run_dir, model, images, ranks)
    teacher = load_teacher(config, "retrain", images, ranks.device)
    if precision.compiles_network(config.engine, ranks.device, zero_stage(config.engine)[0] == 3):
        model.compile()

    def losses(net: Callable[..., Tensor], images: Tensor, targets: Tensor, step: int) -> Iterator[Tensor]:
        if teacher is None:
            yield cross_entropy(net(images)[None], targets, "loss_mean")
        else:
            expected = teacher(images)
            yield loss_with_teacher(net(images)[None], targets, expected, "loss_mean", config.retrain.teacher)

    return Task(
        "retrain", config, config.retrain, run_dir.retrain, model, {"all": list(model.parameters())}, images, losses,
        units_used=lambda step: {"all"}, subnets=lambda step: [spec], init=init,
        teacher=teacher.digest if teacher else "",
    )  # fmt: skip


def _finish(
    config: Config, run_dir: RunDir, ranks: Ranks, spec: SubnetSpec, images: ImageSet, numbers: dict[str, Any]
) -> None:
    """Write the weights of the last checkpoint as a model folder."""
    checkpoint = last_checkpoint(run_dir.retrain)
    if ranks.is_main:
        model = VisionTransformer(spec)
        with torch.no_grad():
            model.load_state_dict(consolidate(checkpoint, ema=config.retrain.ema_decay > 0))
        data = config.data
        preprocess = Preprocess(data.resize, data.mean, data.std, images.classes)
        facts: dict[str, object] = {"training images": RANDOM_IMAGES} if data.synthetic else {}
        write_model(model, run_dir.retrain_model, preprocess, run_dir.name, facts | {"accuracy": "not evaluated"})
        update_summary(run_dir, "retrain", numbers | {"macs": spec_macs(spec)})
        print(f"retrain: {numbers['steps']} steps, loss {numbers['loss']:.4f}, {run_dir.retrain_model}")
    comm.barrier()
