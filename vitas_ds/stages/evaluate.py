"""Stage evaluate: top-1 and top-5 accuracy on the validation images, each counted once over all ranks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from vitas_ds.arch.published import names
from vitas_ds.config import Config, Data
from vitas_ds.data.loader import Batch, eval_batches
from vitas_ds.data.preview import grid
from vitas_ds.data.sources import ImageSet, read_folder
from vitas_ds.distributed import comm, preemption, watchdog
from vitas_ds.distributed.comm import Ranks
from vitas_ds.distributed.watchdog import Watchdog
from vitas_ds.engine import precision
from vitas_ds.errors import Preempted, UserError
from vitas_ds.export.folder import read_model, read_preprocess, weights_digest
from vitas_ds.run.run_dir import RunDir, read_summary, update_summary
from vitas_ds.run.start import find_run, open_run
from vitas_ds.run.tracker import Tracker
from vitas_ds.run.tracking import open_tracker


def run(config: Config) -> None:
    """Evaluate the retrained net, or an exported one; ``summary.json`` gets evaluate's (and retrain's) accuracy."""
    ranks = comm.init(config.run.device, config.run.timeout)
    folder = find_run(config)
    model_folder = folder.retrain_model if config.evaluate.model == "retrain" else Path(config.evaluate.model)
    if config.evaluate.model == "retrain" and not folder.retrain_weights.exists():
        raise UserError(f"evaluate.model: {folder.retrain_model} is not there yet; run the stage retrain first")
    if config.evaluate.model in names():
        raise UserError(f"evaluate.model: {config.evaluate.model} is a published net without weights; give the folder "
                        "of an exported model (see `import`), or train it with retrain.spec")  # fmt: skip
    key = {"model": str(model_folder), "sha256": weights_digest(model_folder), "val": config.data.val}
    before = read_summary(folder).get("evaluate", {})
    if all(before.get(name) == value for name, value in key.items()):
        if ranks.is_main:
            print(f"evaluate: done already, top-1 {before['top1']:.4f} on {before['images']} images")
        return
    numbers = _evaluate(config, folder, ranks, model_folder)
    if ranks.is_main:
        update_summary(folder, "evaluate", key | numbers)
        if config.evaluate.model == "retrain":
            update_summary(folder, "retrain", {"top1": numbers["top1"], "top5": numbers["top5"]})


def _evaluate(config: Config, folder: RunDir, ranks: Ranks, model_folder: Path) -> dict[str, float]:
    model = read_model(model_folder)
    if model.spec.num_classes != config.space.num_classes:
        raise UserError(f"{model_folder}: has {model.spec.num_classes} classes, space.num_classes is "
                        f"{config.space.num_classes}")  # fmt: skip
    images = read_folder(config.data.val, num_classes=config.space.num_classes)
    preprocess = read_preprocess(model_folder)
    if preprocess.classes and preprocess.classes != images.classes:
        raise UserError(f"data.val: {config.data.val} has other classes than {model_folder} was trained on")
    data, size = preprocess.apply_to(config.data), model.spec.image_size
    open_run(config, ranks.is_main, stage="evaluate", world_size=ranks.world_size)
    precision.set_backends(config.engine)
    net: nn.Module = model.to(ranks.device)
    if config.engine.compile:
        net.compile()
    with (
        preemption.listening(),
        Watchdog(folder.life, "evaluate", ranks, config.run.timeout),
        open_tracker(config, folder, "evaluate", ranks.is_main, total=len(images)) as tracker,
    ):
        watchdog.at("waiting for data")
        batches = eval_batches(images, data, size, config.data.eval_batch_size, ranks)
        if ranks.is_main:
            batches = _pictured(batches, folder.evaluation_images, images, data, tracker)
        total, top1, top5 = _count(net, batches, ranks)
        numbers = {"images": total, "top1": top1 / total, "top5": top5 / total}
        tracker.log(total, {name: numbers[name] for name in ("top1", "top5")}, images=total)
        tracker.summary(numbers)
    return numbers


def _pictured(
    batches: Iterator[Batch], picture: Path, images: ImageSet, data: Data, tracker: Tracker
) -> Iterator[Batch]:
    """The batches; of the first one, a picture is left."""
    for nth, batch in enumerate(batches):
        if nth == 0:
            grid(batch.images[:32], batch.labels[:32], images.classes, picture, data)
            tracker.image("images", picture)
        yield batch


def _count(net: nn.Module, batches: Iterator[Batch], ranks: Ranks) -> list[int]:
    """Images, and those whose class the net ranks first, and among its first five; over all ranks.

    Raises:
        Preempted: a rank was told to stop, on all ranks alike.
    """
    counts = torch.zeros(4, dtype=torch.int64, device=ranks.device)  # the last: whether to stop
    for batch in batches:
        watchdog.at("computing")
        with torch.inference_mode():
            logits = net(batch.images)
        ranked = logits.topk(min(5, logits.shape[1])).indices
        hits = ranked == batch.labels[:, None]
        counts[:3] += torch.stack([torch.tensor(len(hits), device=ranks.device), hits[:, 0].sum(), hits.sum()])
        if preemption.asked():
            counts[3] = 1
            break
        watchdog.at("waiting for data")
    watchdog.at(watchdog.WAITING)
    *numbers, stop = comm.all_sum(counts).tolist()
    if stop:
        raise Preempted("stopped; nothing is kept of an evaluation, start it again")
    return numbers
