"""Stage evaluate: top-1 and top-5 accuracy on the validation images, each image counted once over all ranks."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitas_ds.arch.cost import spec_macs
from vitas_ds.config import RANDOM_IMAGES, Config, Data
from vitas_ds.config.absolute import with_absolute_paths
from vitas_ds.data.loader import eval_batches
from vitas_ds.data.preview import save_grid
from vitas_ds.data.reader import Batch
from vitas_ds.data.sources import ImageSet
from vitas_ds.distributed import comm, preemption, watchdog
from vitas_ds.distributed.comm import Ranks
from vitas_ds.engine import precision
from vitas_ds.errors import Preempted, UserError
from vitas_ds.export.digests import settings_digest
from vitas_ds.export.folder import Preprocess, read_model, read_preprocess, weights_digest
from vitas_ds.models.hits import top_hits
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.run import lock
from vitas_ds.run.aside import set_aside
from vitas_ds.run.files import replacing
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.start import find_run
from vitas_ds.run.summary import complete_summary, read_summary, write_result
from vitas_ds.run.tracker import Tracker
from vitas_ds.stages.common import model_folder, read_val, running, validation_images
from vitas_ds.stages.inputs import difference, version_of


def run(config: Config) -> None:
    """Evaluate the retrained network or an exported one, and write the accuracy to ``summary.json``."""
    config = with_absolute_paths(config)  # the result is the same one if the next start is in another folder
    ranks = comm.init(config.run.device, config.run.timeout)
    run_dir = find_run(config)
    source = model_folder(config.evaluate.model, "evaluate.model", run_dir)
    val = RANDOM_IMAGES if config.data.synthetic else config.data.val
    model, sha256 = config.evaluate.model, weights_digest(source)
    key = {"model": model, "sha256": sha256, "val": val, "precision": _precision(config, ranks)}
    key["settings"] = settings_digest(source)
    previous = read_summary(run_dir).get("evaluate", {})
    changed = comm.from_main(lambda: _changed(config, run_dir, previous, key))
    if not changed:
        if ranks.is_main:
            print(f"evaluate: done already, top-1 {previous['top1']:.4f} on {previous['images']} images")
        return
    inputs = _read_inputs(config, source)  # wrong ones must not cost the old result
    if previous:
        comm.from_main(lambda: _move_aside(run_dir, changed))
    numbers = _evaluate(config, run_dir, ranks, *inputs)
    if ranks.is_main:
        write_result(run_dir, "evaluate", key | numbers | {"contents": version_of(run_dir, "val", read_val(config))})
        complete_summary(run_dir)


def _changed(config: Config, run_dir: RunDir, previous: dict[str, Any], key: dict[str, Any]) -> str:
    """Return a clause about a change since the last evaluation; "" without a change.

    The same images in another folder are the same. Without the folder, they cannot be compared.
    """
    for name, text in (("model", "evaluate.model"), ("sha256", "the file of weights"), ("precision", "the precision")):
        if previous.get(name) != key[name]:
            return f"{text} has changed"
    if previous.get("settings") not in (None, key["settings"]):  # older results do not have it
        return "spec.json or preprocess.json has changed"
    version, moved = previous.get("contents"), previous.get("val") != key["val"]
    if config.data.synthetic or version is None or not os.path.isdir(config.data.val):
        return "data.val has changed" if moved else ""
    if not isinstance(version, str):
        return "the record of its images has changed"
    text = difference(run_dir, version, read_val(config))
    return f"data.val: {text}" if text else ""


def _move_aside(run_dir: RunDir, changed: str) -> None:
    lock.acquire(run_dir.path, "evaluate")
    old = set_aside(run_dir, ["evaluate"])
    if old is not None:
        print(f"evaluate: {changed}; evaluating again, old result: {old.path}", flush=True)


def _read_inputs(config: Config, source: Path) -> tuple[VisionTransformer, Preprocess, ImageSet]:
    """Return the network, its preprocessing and the images.

    Raises:
        UserError: They cannot be read, or do not fit.
    """
    model, preprocess = read_model(source), read_preprocess(source)
    found, expected = model.spec.num_classes, config.space.num_classes
    if found != expected:
        raise UserError(f"{source}: has {found} classes, space.num_classes is {expected}")
    return model, preprocess, validation_images(config, model, preprocess, str(source))


def _evaluate(
    config: Config, run_dir: RunDir, ranks: Ranks, model: VisionTransformer, preprocess: Preprocess, images: ImageSet
) -> dict[str, float]:
    data, image_size = preprocess.apply_to(config.data), model.spec.image_size
    precision.set_backends(config.engine)
    net: nn.Module = model.to(ranks.device)
    if precision.compiles_network(config.engine, ranks.device):
        net.compile()
    with running(config, "evaluate", ranks, total=len(images)) as tracker:
        watchdog.at("waiting for data")
        batches = eval_batches(images, data, image_size, config.data.eval_batch_size, ranks)
        if ranks.is_main:
            batches = _save_first(batches, run_dir.evaluation_images, images, data, tracker)
        start = time.monotonic()
        total, top1, top5 = _count(net, batches, ranks, _precision(config, ranks))
        numbers = {"images": total, "top1": top1 / total, "top5": top5 / total, "macs": spec_macs(model.spec)}
        numbers["seconds"] = time.monotonic() - start
        tracker.log(total, {name: numbers[name] for name in ("top1", "top5")}, images=total)
        tracker.summary(numbers)
    return numbers


def _save_first(
    batches: Iterator[Batch], picture: Path, images: ImageSet, data: Data, tracker: Tracker
) -> Iterator[Batch]:
    """Yield the batches; save a picture of the first one."""
    for i, batch in enumerate(batches):
        if i == 0:
            with replacing(picture) as aside:
                save_grid(batch.images[:32], batch.labels[:32], images.classes, aside, data)
            tracker.image("images", picture)
        yield batch


def _precision(config: Config, ranks: Ranks) -> str:
    return config.evaluate.precision or precision.fast_precision(ranks.device, "fp32")


def _count(net: nn.Module, batches: Iterator[Batch], ranks: Ranks, dtype: str) -> list[int]:
    """Return the number of images, of top-1 hits and of top-5 hits, summed over all ranks.

    Raises:
        Preempted: A rank was asked to stop. It is raised on all ranks.
    """
    counts = torch.zeros(4, dtype=torch.int64, device=ranks.device)  # the last one: whether to stop
    for batch in batches:
        watchdog.at("computing")
        with torch.inference_mode(), precision.autocast(dtype, ranks.device):
            logits = net(batch.images)
        hits = top_hits(logits, batch.labels, 5)
        counts[:3] += torch.stack([torch.tensor(len(hits), device=ranks.device), hits[:, 0].sum(), hits.sum()])
        if preemption.requested():
            counts[3] = 1
            break
        watchdog.at("waiting for data")
    watchdog.at(watchdog.WAITING)
    *numbers, stop = comm.all_sum(counts).tolist()
    if stop:
        raise Preempted("stopped; an evaluation saves nothing, start it again")
    return numbers
