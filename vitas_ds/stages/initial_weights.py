"""Initial weights of the network to retrain (``retrain.init``): inherited from the supernet, or those of a model."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from vitas_ds.arch.spec import SubnetSpec, read_spec
from vitas_ds.config import Config
from vitas_ds.data.loader import eval_batches
from vitas_ds.data.sources import ImageSet
from vitas_ds.distributed import comm, watchdog
from vitas_ds.distributed.comm import Ranks
from vitas_ds.engine import precision
from vitas_ds.errors import UserError
from vitas_ds.export.folder import read_model, read_preprocess
from vitas_ds.models.extract import extract
from vitas_ds.models.hits import top_hits
from vitas_ds.models.shapes import check_finite, check_shapes, shapes_of
from vitas_ds.models.transfer import shapes_after_transfer, transfer
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.run.run_dir import RunDir
from vitas_ds.stages.common import split_training_images
from vitas_ds.stages.model_folders import check_inherits, find_model, is_checkpoint
from vitas_ds.stages.trained_supernet import check_supernet_exists, load_supernet
from vitas_ds.training.checkpoint_reader import consolidate, find_checkpoint, open_checkpoint

Fill = Callable[[], str]


def make_init(config: Config, run_dir: RunDir, model: VisionTransformer, images: ImageSet, ranks: Ranks) -> Fill | None:
    """Return a function that loads the weights of ``retrain.init`` into the network, and returns where they come from.

    All ranks must call it.

    Returns:
        The function. None for random weights, and if the run has a checkpoint: to resume, it needs neither the supernet
        nor the model folder.

    Raises:
        UserError: The supernet is not trained, the network is not in its space, or ``retrain.init`` is not a model of
            this network.
    """
    init = config.retrain.init
    if init == "scratch" or any(run_dir.retrain.checkpoints.glob("step-*")):
        return None
    if init == "supernet":
        check_inherits(model.spec, config.space)
        check_supernet_exists(config, run_dir)
        return partial(_from_supernet, config, run_dir, model, ranks)
    if is_checkpoint(init):
        return partial(_from_checkpoint, model, *_matching_checkpoint(Path(init), model))
    return partial(_from_folder, model, *_matching_folder(config, model.spec, images))


def _from_supernet(config: Config, run_dir: RunDir, model: VisionTransformer, ranks: Ranks) -> str:
    """Load the weights of a side of the supernet: with two sides, the one that classifies more search images."""
    watchdog.at("loading the supernet")
    supernet, _ = load_supernet(config, run_dir)
    nets = [extract(supernet, model.spec, side) for side in supernet.sides]
    if len(nets) == 1:
        model.load_state_dict(nets[0].state_dict())
        return "the weights of the supernet"
    search_images = split_training_images(config)[1]  # of all images: retrain may hold out some of its own
    hits = _count_hits(nets, search_images, config, ranks)
    best = hits.index(max(hits))  # the first one, left, if they are equal
    model.load_state_dict(nets[best].state_dict())
    shares = ", ".join(f"{side} {n / len(search_images):.4f}" for side, n in zip(supernet.sides, hits, strict=True))
    return f"the {supernet.sides[best]} side of the supernet (accuracy on the search images: {shares})"


def _count_hits(nets: Sequence[VisionTransformer], images: ImageSet, config: Config, ranks: Ranks) -> list[int]:
    """Return how many images each network classifies correctly. The ranks share the images."""
    hits = torch.zeros(len(nets), dtype=torch.int64, device=ranks.device)
    nets = [net.to(ranks.device).eval() for net in nets]
    data = config.data
    for batch in eval_batches(images, data, config.space.image_size, data.eval_batch_size, ranks):
        watchdog.at("comparing the sides of the supernet")
        with torch.inference_mode(), precision.autocast(config.engine.precision, ranks.device):
            hits += torch.stack([top_hits(net(batch.images), batch.labels).sum() for net in nets])
    watchdog.at(watchdog.WAITING)
    return comm.all_sum(hits).tolist()


def _matching_folder(config: Config, spec: SubnetSpec, images: ImageSet) -> tuple[Path, bool]:
    """Return the model folder that ``retrain.init`` names, and whether the network needs a new head."""
    folder = find_model(config.retrain.init, "retrain.init")
    found = read_spec(folder / "spec.json").canonical()
    if replace(found, image_size=spec.image_size, num_classes=spec.num_classes) != spec:
        raise UserError(
            f"retrain.init: {folder} is another network ({found.describe()}) than retrain.spec ({spec.describe()}); "
            f"set retrain.spec={folder / 'spec.json'}"
        )
    preprocess, data = read_preprocess(folder), config.data
    if (preprocess.mean, preprocess.std) != (data.mean, data.std):
        warnings.warn(
            f"retrain.init: {folder} was trained with mean {list(preprocess.mean)} and std {list(preprocess.std)}, "
            f"data.mean and data.std are {list(data.mean)} and {list(data.std)}", stacklevel=2,
        )  # fmt: skip
    other_classes = preprocess.classes not in ((), images.classes)
    return folder, other_classes or found.num_classes != spec.num_classes


def _matching_checkpoint(path: Path, model: VisionTransformer) -> tuple[Path, bool, bool]:
    """Return the checkpoint that ``retrain.init`` names, whether it needs a new head, and whether it has averages."""
    checkpoint = find_checkpoint(path, "retrain.init")
    if checkpoint is None:
        raise UserError(f"retrain.init: {path}: no intact checkpoint")
    reader = open_checkpoint(checkpoint)
    spec, expected = model.spec, shapes_of(model.state_dict())
    new_head = reader.shapes.get("head.weight", (0,))[0] not in (0, spec.num_classes)
    try:
        check_shapes("", shapes_after_transfer(reader.shapes, expected, new_head, spec.prefix_tokens), expected)
    except UserError as error:
        raise UserError(
            f"retrain.init: {checkpoint}: weights of another network than retrain.spec ({spec.describe()}){error}"
            "; for those of a supernet, set search.checkpoint to it and retrain.init=supernet"
        ) from None
    return checkpoint, new_head, "ema" in reader.kinds


def _from_checkpoint(model: VisionTransformer, checkpoint: Path, new_head: bool, averaged: bool) -> str:
    weights = consolidate(checkpoint, ema=averaged)
    check_finite(f"retrain.init: {checkpoint}", weights)
    return f"the {'averaged ' if averaged else ''}weights in {checkpoint}{_fill(model, weights, new_head)}"


def _from_folder(model: VisionTransformer, folder: Path, new_head: bool) -> str:
    return f"the weights in {folder}{_fill(model, read_model(folder).state_dict(), new_head)}"


def _fill(model: VisionTransformer, weights: Mapping[str, Tensor], new_head: bool) -> str:
    """Load the weights of a network that may have other classes and another image size. Return the changes."""
    spec, initial = model.spec, model.state_dict()
    model.load_state_dict(transfer(weights, initial, new_head, spec.prefix_tokens))
    changes = [f"a new head for {spec.num_classes} classes"] if new_head else []
    before, after = (math.isqrt(len(x["pos_embed"][0]) - spec.prefix_tokens) for x in (weights, initial))
    if before != after:
        changes.append(f"position embeddings resized from {before} x {before} to {after} x {after}")
    return f", with {' and '.join(changes)}" if changes else ""
