"""Stage evaluate: top-1 and top-5 accuracy on the validation images, each counted once over all ranks."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

from vitas_ds import distributed
from vitas_ds.config import Config
from vitas_ds.data.loader import eval_batches
from vitas_ds.data.picture import grid
from vitas_ds.data.sources import read_folder
from vitas_ds.distributed import Ranks
from vitas_ds.errors import UserError
from vitas_ds.models.exported import read_model, read_preprocess
from vitas_ds.published import names
from vitas_ds.run_dir import RunDir, find_run, open_run, read_summary, update_summary
from vitas_ds.tracking import open_tracker


def run(config: Config) -> None:
    """Evaluate the retrained net, or an exported one; ``summary.json`` gets evaluate's (and retrain's) accuracy."""
    ranks = distributed.init(config.run.device, config.run.timeout)
    folder = find_run(config)
    model_folder = folder.retrain_model if config.evaluate.model == "retrain" else Path(config.evaluate.model)
    if config.evaluate.model == "retrain" and not folder.retrain_weights.exists():
        raise UserError(f"evaluate.model: {folder.retrain_model} is not there yet; run the stage retrain first")
    if config.evaluate.model in names():
        raise UserError(f"evaluate.model: {config.evaluate.model} is a published net without weights; give the folder "
                        "of an exported model (see `import`), or train it with retrain.spec")  # fmt: skip
    key = {"model": str(model_folder), "sha256": _sha256(model_folder), "val": config.data.val}
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
    net: nn.Module = model.to(ranks.device)
    if config.engine.compile:
        net.compile()
    with open_tracker(config, folder, "evaluate", ranks.is_main, total=len(images)) as tracker:
        counts = torch.zeros(3, dtype=torch.int64, device=ranks.device)  # images, top-1 hits, top-5 hits
        for batch in eval_batches(images, data, size, config.data.eval_batch_size, ranks):
            if ranks.is_main and counts[0] == 0:
                picture = folder.path / "evaluation_images.png"
                grid(batch.images[:32], batch.labels[:32], images.classes, picture, data)
                tracker.image("images", picture)
            with torch.inference_mode():
                ranked = net(batch.images).topk(min(5, model.spec.num_classes)).indices
            hits = ranked == batch.labels[:, None]
            counts += torch.stack([torch.tensor(len(hits), device=ranks.device), hits[:, 0].sum(), hits.sum()])
        total, top1, top5 = distributed.all_sum(counts).tolist()
        numbers = {"images": total, "top1": top1 / total, "top5": top5 / total}
        tracker.log(total, {name: numbers[name] for name in ("top1", "top5")}, images=total)
        tracker.summary(numbers)
    return numbers


def _sha256(model_folder: Path) -> str | None:
    weights = model_folder / "model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None
