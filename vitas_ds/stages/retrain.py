"""Stage retrain: train one spec as a plain vision transformer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitas_ds.arch.published import find_spec
from vitas_ds.arch.spec import SubnetSpec, check_spec, read_spec
from vitas_ds.config import Config
from vitas_ds.data.sources import ImageSet, check_batch_size
from vitas_ds.distributed import comm
from vitas_ds.distributed.comm import Ranks
from vitas_ds.engine import precision
from vitas_ds.engine.ds_config import zero_stage
from vitas_ds.errors import Stale, UserError
from vitas_ds.models.layers import init_weights
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.run.files import read_json, write_json
from vitas_ds.run.run_dir import RunDir, run_of
from vitas_ds.run.start import find_run, open_run
from vitas_ds.search.results import select
from vitas_ds.search.selector import ALL_BUDGETS, find_source
from vitas_ds.stages.common import training_images
from vitas_ds.stages.held_out import held_out_images, with_accuracy
from vitas_ds.stages.inherit import keep_initial_weights, write_network
from vitas_ds.stages.initial_weights import make_init
from vitas_ds.stages.inputs import (
    check_inputs,
    check_training_images,
    initial_weights_id,
    record_inputs,
    train_if_present,
)
from vitas_ds.stages.model_folders import INIT, spec_of_init
from vitas_ds.stages.teaching import load_teacher
from vitas_ds.stages.training import is_trained, last_checkpoint, print_estimate, print_replay
from vitas_ds.training.checkpoint_reader import consolidate
from vitas_ds.training.finetune import frozen_names, lr_scales
from vitas_ds.training.losses import cross_entropy, loss_with_teacher
from vitas_ds.training.task import Task
from vitas_ds.training.trainer import train


def run(config: Config) -> None:
    """Train the network that ``retrain.spec`` names on the training images except ``retrain.eval_images``.

    Several networks, as in ``search:pareto[0,2]``, are trained one after the other, each in a run of its own.
    """
    ranks = comm.init(config.run.device, config.run.timeout)
    several = one_network_each(config)
    for one in several[1:]:  # a wrong index is an error before the first training
        chosen_spec(one, run_of(one))
    for one in several:
        if ranks.is_main and one is not config:
            print(f"retrain: {one.retrain.spec}, run {run_of(one).path}", flush=True)
        _run(one, ranks)


def one_network_each(config: Config) -> list[Config]:
    """Return a configuration for each network that ``retrain.spec`` names; of a list, with names of their own."""
    source = find_source(config.retrain.spec)
    if source is None:
        return [config]
    searched = source.run or str(run_of(config).path)
    networks = source.single(_count_budgets(searched) if source.choice == ALL_BUDGETS else 0)
    if len(networks) == 1 and source.choice != ALL_BUDGETS:
        return [config]

    def one(suffix: str, choice: str) -> Config:
        checkpoint = config.search.checkpoint
        if checkpoint is None and (config.retrain.init == "supernet" or config.retrain.teacher.model == INIT):
            checkpoint = searched
        changes = {
            "run": config.run.model_copy(update={"name": config.run.name + suffix}),
            "search": config.search.model_copy(update={"checkpoint": checkpoint}),
            "retrain": config.retrain.model_copy(update={"spec": f"{searched}:{choice}"}),
        }
        return config.model_copy(update=changes)

    return [one(*pair) for pair in networks]


def _count_budgets(searched: str) -> int:
    """Return the number of budgets of a finished search.

    Raises:
        UserError: It has not finished, or had no ``search.budgets``.
    """
    run = RunDir(Path(searched))
    select(run, "search:budget[0]")
    return len(read_json(run.best, {})["budgets"])


def _run(config: Config, ranks: Ranks) -> None:
    run_dir = find_run(config)
    spec = chosen_spec(config, run_dir)
    if run_dir.retrain_weights.exists():
        comm.from_main(lambda: _check(config, run_dir, train_if_present(config)))
    if is_trained("retrain", run_dir.retrain_weights, run_dir, ranks):
        return
    all_images = training_images(config)
    images, held_out = held_out_images(config, all_images)
    if not config.retrain.epochs:
        open_run(config, ranks.is_main, stage="retrain", world_size=ranks.world_size)
        comm.from_main(lambda: _check(config, run_dir, all_images, locked=True))
        keep_initial_weights(config, run_dir, ranks, spec, images)
        return
    check_batch_size(images, config.retrain.batch_size, "retrain")
    task = make_task(config, run_dir, ranks, spec, images)
    open_run(config, ranks.is_main, stage="retrain", world_size=ranks.world_size)
    comm.from_main(lambda: _check(config, run_dir, all_images, locked=True))
    print_estimate(task, ranks, spec)
    task = with_accuracy(task, ranks, held_out)
    if ranks.is_main and not run_dir.retrain_spec.exists():
        write_json(run_dir.retrain_spec, spec.to_dict())
    numbers = train(task, run_dir, ranks)
    _finish(config, run_dir, ranks, spec, images, numbers)


def _check(config: Config, run_dir: RunDir, images: ImageSet | None, locked: bool = False) -> None:
    """Compare the inputs with those of earlier results; once the run is locked, record them."""
    if locked and images is not None:
        check_training_images(config, run_dir, images)
    digests = {"weights": initial_weights_id(config, run_dir)}
    (record_inputs if locked else check_inputs)(run_dir, "retrain", run_dir.retrain.path, {"train": images}, digests)


def replay_step(config: Config, file: str) -> None:
    """Compute the first step of a divergence record again and print it; an empty ``file`` is the run's own record."""
    ranks, run_dir = comm.init(config.run.device, config.run.timeout), run_of(config)
    images, _ = held_out_images(config)
    print_replay(make_task(config, run_dir, ranks, chosen_spec(config, run_dir), images), file, ranks)


def chosen_spec(config: Config, run_dir: RunDir) -> SubnetSpec:
    """Return the spec to train, with the image size and the number of classes of the recipe.

    Raises:
        UserError: The spec is missing or invalid, or the run already trains another one.
    """
    choice = config.retrain.spec
    if choice == "init":  # to resume, a run does not need the model
        found = read_spec(run_dir.retrain_spec) if run_dir.retrain_spec.exists() else spec_of_init(config.retrain.init)
    else:
        found = _found_by_search(config, run_dir) or find_spec(choice)
    spec = replace(found.canonical(), image_size=config.space.image_size, num_classes=config.space.num_classes)
    if config.retrain.distill_token:
        spec = _with_token(spec, config.retrain.init)
    check_spec(spec, "retrain.spec")
    if run_dir.retrain_spec.exists() and read_spec(run_dir.retrain_spec) != spec:
        raise Stale(
            run_dir.path, "retrain", f"{choice} is another network now",
            f"retrain.spec: {choice} is not the network in {run_dir.retrain_spec}, which this run trains; "
            "give another run.name",
        )  # fmt: skip
    return spec


def _with_token(spec: SubnetSpec, init: str) -> SubnetSpec:
    """Return the network with a distillation token and its classifier.

    Raises:
        UserError: It has registers or no class token, or ``retrain.init`` has no weights of such a token.
    """
    if spec.classifiers == 2:
        return spec
    if spec.prefix_tokens > 1 or spec.pool != "class":
        raise UserError("retrain.distill_token: the network has registers, or its classifier reads no class token")
    if init != "scratch":
        raise UserError(f"retrain.distill_token: {init} has no distillation token; use retrain.init=scratch")
    return replace(spec, prefix_tokens=2, classifiers=2)


def _found_by_search(config: Config, run_dir: RunDir) -> SubnetSpec | None:
    """Return the spec of a search result of this or another run; None if ``retrain.spec`` does not name one.

    Raises:
        UserError: The other run does not exist, or the search has no such result.
    """
    source, init = find_source(config.retrain.spec), config.retrain.init
    if source is None:
        return None
    found = run_dir.best.exists() or run_dir.pareto.exists()
    if not source.run and not found and init not in ("scratch", "supernet"):
        raise UserError(
            f"retrain.spec: {source.choice}: this run has no search results; set retrain.spec=init to keep the network "
            "of retrain.init, or run the search first"
        )
    other = RunDir(Path(source.run)) if source.run else run_dir
    if source.run and not other.config.is_file():
        raise UserError(f"retrain.spec: {source.run}: not a run (there is no config.yaml in it)")
    return select(other, source.choice)


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
    depth, tensors = spec.depth, model.state_dict()
    model.separate = config.retrain.distill_token
    model.frozen = frozen_names(tensors, depth, config.retrain.freeze)
    units = units_of(model)
    init = make_init(config, run_dir, model, images, ranks)
    teacher = load_teacher(config, "retrain", images, ranks.device)
    if precision.compiles_network(config.engine, ranks.device, zero_stage(config.engine)[0] == 3):
        model.compile()

    def losses(net: Callable[..., Tensor], images: Tensor, targets: Tensor, step: int) -> Iterator[Tensor]:
        if teacher is None:
            yield cross_entropy(net(images)[None], targets, "loss_mean")
        else:
            expected, outputs = teacher(images), net(images)
            logits, token = outputs.split(1) if model.separate else (outputs[None], None)
            yield loss_with_teacher(logits, targets, expected, "loss_mean", config.retrain.teacher, token)

    return Task(
        "retrain", config, config.retrain, run_dir.retrain, model, units, images, losses,
        units_used=lambda step: {"all"}, subnets=lambda step: [spec], init=init,
        teacher=teacher.digest if teacher else "", teacher_macs=teacher.macs if teacher else 0,
        lr_scales=lr_scales(tensors, depth, config.retrain.layer_decay, spec.pool),
    )  # fmt: skip


def units_of(model: VisionTransformer) -> dict[str, list[nn.Parameter]]:
    """Return the trained parameters as one sampling unit, and frozen ones, if any, as another, unused one."""
    units: dict[str, list[nn.Parameter]] = {"all": [], "frozen": []}
    for name, parameter in model.named_parameters():
        units["frozen" if name in model.frozen else "all"].append(parameter)
    return units if model.frozen else {"all": units["all"]}


def _finish(
    config: Config, run_dir: RunDir, ranks: Ranks, spec: SubnetSpec, images: ImageSet, numbers: dict[str, Any]
) -> None:
    """Write the weights of the last checkpoint as a model folder."""
    checkpoint = last_checkpoint(run_dir.retrain)
    if ranks.is_main:
        model = VisionTransformer(spec)
        with torch.no_grad():
            model.load_state_dict(consolidate(checkpoint, ema=config.retrain.ema_decay > 0))
        write_network(config, run_dir, model, images, numbers)
        print(f"retrain: {numbers['steps']} steps, loss {numbers['loss']:.4f}, {run_dir.retrain_model}")
    comm.barrier()
