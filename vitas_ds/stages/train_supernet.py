"""Stage train-supernet: train one set of weights for all subnets of the space by sampling subnets at each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor

from vitas_ds.arch import genome
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.config import Config
from vitas_ds.data.sources import ImageSet, check_batch_size, hold_out, write_classes, write_list
from vitas_ds.distributed import comm
from vitas_ds.distributed.comm import Ranks
from vitas_ds.engine import precision
from vitas_ds.models.channels import SIDES
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.run.files import replacing, write_json
from vitas_ds.run.run_dir import RunDir, run_of
from vitas_ds.run.start import find_run, open_run
from vitas_ds.run.summary import complete_summary, write_result
from vitas_ds.search import probe
from vitas_ds.stages.common import split_training_images, training_images
from vitas_ds.stages.forecast import after_supernet
from vitas_ds.stages.inputs import check_inputs, record_inputs, train_if_present
from vitas_ds.stages.pretrained import is_pretrained, make_init, prepare
from vitas_ds.stages.teaching import load_teacher
from vitas_ds.stages.training import is_trained, last_checkpoint, print_estimate, print_replay
from vitas_ds.training.checkpoint_files import list_checkpoints
from vitas_ds.training.checkpoint_reader import write_consolidated
from vitas_ds.training.losses import cross_entropy, distill_loss, loss_with_teacher
from vitas_ds.training.sampling import CostModel, fit_identity_prob
from vitas_ds.training.subnets import subnet_sampler
from vitas_ds.training.task import Task
from vitas_ds.training.teacher import TeacherNetwork
from vitas_ds.training.trainer import train


def run(config: Config) -> None:
    """Train the supernet of ``config.space`` on the training images without the search images."""
    ranks = comm.init(config.run.device, config.run.timeout)
    run_dir = find_run(config)
    if run_dir.supernet_weights.exists():
        comm.from_main(lambda: _check(run_dir, train_if_present(config)))
    if is_trained("train-supernet", run_dir.supernet_weights, run_dir, ranks):
        return
    all_images = training_images(config)
    images, search_images = hold_out(all_images, config.data.search_per_class, config.run.seed)
    check_batch_size(images, config.supernet.batch_size, "supernet")
    open_run(config, ranks.is_main, stage="train-supernet", world_size=ranks.world_size)
    comm.from_main(lambda: _check(run_dir, all_images))
    if is_pretrained(config):
        config = prepare(config, run_dir, ranks, images)
    if ranks.is_main:
        run_dir.supernet.path.mkdir(parents=True, exist_ok=True)
        with replacing(run_dir.classes) as aside:
            write_classes(images.classes, aside)
        if not list_checkpoints(run_dir.supernet.checkpoints):  # else keep the list of the training that wrote them
            _write_search_images(run_dir, search_images)
    task = make_task(config, run_dir, ranks, images)  # a refused network or teacher leaves no record of its images
    comm.from_main(lambda: record_inputs(run_dir, "train-supernet", run_dir.supernet.path, {"train": all_images}, {}))
    largest = genome.decode(config.space, genome.largest(config.space))
    print_estimate(task, ranks, largest, len(SIDES[config.supernet.sharing]))
    task = replace(_with_evaluation(task, run_dir, ranks, search_images), later=after_supernet(task, run_dir))
    numbers = train(task, run_dir, ranks)
    if ranks.is_main:
        _write_search_images(run_dir, search_images)
    _finish(config, run_dir, ranks, numbers)


def _write_search_images(run_dir: RunDir, images: ImageSet) -> None:
    with replacing(run_dir.search_images) as aside:
        write_list(images.paths, aside)


def _check(run_dir: RunDir, images: ImageSet | None) -> None:
    check_inputs(run_dir, "train-supernet", run_dir.supernet.path, {"train": images}, {})


def replay_step(config: Config, file: str) -> None:
    """Compute the first step of a divergence record again and print it; an empty ``file`` is the run's own record."""
    ranks, run_dir = comm.init(config.run.device, config.run.timeout), run_of(config)
    print_replay(make_task(config, run_dir, ranks, split_training_images(config)[0]), file, ranks)


def make_task(config: Config, run_dir: RunDir, ranks: Ranks, images: ImageSet) -> Task:
    """Return the training task with a newly initialized supernet."""
    precision.set_backends(config.engine)  # replay and the measurement of latencies have no engine
    supernet = Supernet(
        config.space, config.supernet.sharing, config.supernet.private_attention, config.engine.grad_checkpointing,
        class_token_only=True, private_norms=config.supernet.private_norms,
    )  # fmt: skip
    init_weights(supernet, config.run.seed, config.supernet.init_std)
    if config.engine.compile is True:
        supernet.compile_blocks()
    subnets = subnet_sampler(config, identity_prob(config, run_dir, ranks), len(images))
    teacher = load_teacher(config, "supernet", images, ranks.device)

    def losses(model: Callable[..., Tensor], images: Tensor, targets: Tensor, step: int) -> Iterator[Tensor]:
        return step_losses(config, model, subnets(step), images, targets, teacher)

    def units_used(step: int) -> set[str]:
        return set().union(*(supernet.units_used(spec) for spec in subnets(step)))

    def metrics(step: int) -> dict[str, Any]:
        spec = subnets(step)[0]
        found = {"net_macs": spec_macs(spec), "net_depth": spec.depth, "net_embed_dim": spec.embed_dim}
        return found | ({"smallest_macs": spec_macs(subnets(step)[-1])} if config.supernet.open else {})

    return Task(
        "train-supernet", config, config.supernet, run_dir.supernet, supernet, supernet.units(), images, losses,
        units_used, metrics, subnets, make_init(supernet, run_dir) if is_pretrained(config) else None,
        teacher=teacher.digest if teacher else "", teacher_macs=teacher.macs if teacher else 0,
    )  # fmt: skip


def _with_evaluation(task: Task, run_dir: RunDir, ranks: Ranks, search_images: ImageSet) -> Task:
    """Add the accuracy of a few subnets to the metrics, if ``supernet.eval_every`` allows."""
    when = probe.plan(task, len(search_images))
    if when is None:
        return task
    evaluation, measured = probe.evaluation(task, ranks, search_images, when)
    if ranks.is_main:
        specs = {name: spec.to_dict() for name, spec in measured.subnets.items()}
        write_json(run_dir.supernet_subnets, {"images": when.images, "every": when.every, "subnets": specs})
        print(f"train-supernet: accuracy of {len(specs)} subnets on {when.images:,} search images every {when.every:,} "
              f"steps, {when.share:.1%} of the computation")  # fmt: skip
    return replace(task, evaluation=evaluation)


def identity_prob(config: Config, run_dir: RunDir, ranks: Ranks) -> float | None:
    """Fit the probability of an identity to the budget.

    The budget is ``supernet.throughput`` or ``supernet.macs``, else that of the search: MACs first, then seconds.

    Returns:
        The probability; None without a budget, without identities in the space, or with another distribution.
    """
    supernet, search, space = config.supernet, config.search.covering(), config.space
    if not space.identity or supernet.distribution == "budget":
        return None
    macs = None if supernet.throughput else supernet.macs or search.macs
    if macs:
        return fit_identity_prob(space, *macs)
    slow, fast = supernet.throughput or (0.0, 0.0)
    seconds = (search.latency_batch_size / fast, search.latency_batch_size / slow) if fast else search.seconds
    if seconds is None or math.isinf(seconds[1]):  # no upper limit to fit to
        return None
    from vitas_ds.search.latency.calibration import calibrate  # takes half a second; few recipes need it
    from vitas_ds.search.runtime import open_runtime

    runtime = open_runtime(config, ranks.device)
    timing = calibrate(config, run_dir, run_dir.supernet_latency, runtime, {}, any_device=True)
    if ranks.is_main:
        print(timing.describe())
    model = CostModel(timing.predictor, lambda value: f"{value:.4g} s a batch of {search.latency_batch_size}")
    return fit_identity_prob(space, *seconds, model)


def step_losses(
    config: Config, model: Callable[..., Tensor], subnets: list[SubnetSpec], images: Tensor, targets: Tensor,
    teacher: TeacherNetwork | None = None,
) -> Iterator[Tensor]:  # fmt: skip
    """Yield the loss of each subnet of a step, divided by their number.

    All subnets learn from the teacher, if there is one, except a largest subnet that started as a pretrained network:
    it learns the labels. Otherwise, with ``supernet.distill``, all subnets but the first learn the outputs of the first
    one.
    """
    objective, largest = config.supernet.objective, None
    expected = teacher(images) if teacher else None
    alone = is_pretrained(config) and config.supernet.sampling == "sandwich"
    for i, spec in enumerate(subnets):
        logits = model(images, spec)
        if expected is not None and not (alone and i == 0):
            loss = loss_with_teacher(logits, targets, expected, objective, config.supernet.teacher)
        elif largest is not None:
            loss = distill_loss(logits, largest, objective)
        else:
            loss = cross_entropy(logits, targets, objective)
            largest = logits.detach() if config.supernet.distill else None
        yield loss / len(subnets)


def _finish(config: Config, run_dir: RunDir, ranks: Ranks, numbers: dict[str, Any]) -> None:
    """Consolidate the last checkpoint (its averaged weights, if any): the search needs no engine to read it."""
    checkpoint = last_checkpoint(run_dir.supernet)
    if ranks.is_main:
        with replacing(run_dir.supernet_weights) as aside:
            write_consolidated(checkpoint, aside, ema=config.supernet.ema_decay > 0)
            write_result(run_dir, "train-supernet", numbers, aside)
        complete_summary(run_dir)
        print(f"train-supernet: {numbers['steps']} steps, loss {numbers['loss']:.4f}, {run_dir.supernet_weights}")
    comm.barrier()
