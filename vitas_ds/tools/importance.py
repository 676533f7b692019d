"""``vitas importance``: measure how important every unit of an exported model is, with a plot."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vitas_ds.arch.spec import read_spec
from vitas_ds.config import Data
from vitas_ds.data.loader import eval_batches
from vitas_ds.data.sources import ImageSet, fingerprint, read_folder
from vitas_ds.distributed.comm import Ranks
from vitas_ds.elastic.importance import Loss, measure
from vitas_ds.elastic.plot import plot_scores
from vitas_ds.elastic.scores import Scores, read_scores, write_scores
from vitas_ds.errors import UserError
from vitas_ds.export.folder import read_facts, read_model, read_preprocess, weights_digest

BATCH_SIZE = 32  # images decoded at once
PROGRESS_SECONDS = 30.0  # between two lines
DRAW = 0x1A9E  # tag of the random stream of the images


@dataclass(frozen=True)
class _Task:
    """Everything the result depends on."""

    model: Path
    images: ImageSet
    loss: Loss
    weights: str
    data: str


def run(args: argparse.Namespace) -> int:
    """Run ``vitas importance MODEL --data DIR --out FILE.json [--images N] [--loss LOSS] [--seed N]``."""
    task, plot = _task(args), args.out.with_suffix(".png")
    if args.out.exists():
        found = read_scores(args.out)
        if (found.weights, found.data, found.loss) != (task.weights, task.data, task.loss):
            raise UserError(
                f"--out {args.out}: has the importance of another model or of other images; give a new file"
            )
        scores, before = found, " (measured before)"
    elif plot.exists():
        raise UserError(f"--out {args.out}: its plot {plot} exists already; give a new file")
    else:
        scores, before = _measure(task), ""
        write_scores(args.out, scores)
    plot_scores(scores, plot)
    print(f"importance: {scores.images} images{before}; {args.out}, {plot}")
    return 0


def _task(args: argparse.Namespace) -> _Task:
    """Check the arguments."""
    if args.out.suffix != ".json":
        raise UserError(f"--out {args.out}: must end with .json; the plot is written beside it as .png")
    if args.images < 1:
        raise UserError(f"--images {args.images}: must be 1 or more")
    weights = weights_digest(args.model)
    if weights is None:
        raise UserError(f"{args.model}: not an exported model: model.safetensors is missing")
    images = read_folder(args.data)
    _check_classes(args, images)
    chosen = choose(images, args.images, args.seed)
    if len(chosen) < args.images:
        print(f"importance: {args.data} has {len(chosen)} images, fewer than {args.images}", flush=True)
    return _Task(args.model, chosen, args.loss, weights, fingerprint(chosen))


def choose(images: ImageSet, count: int, seed: int) -> ImageSet:
    """Return random images in the order of the set."""
    ids = np.random.default_rng([DRAW, seed]).permutation(len(images))[:count]
    return images.subset(np.sort(ids))


def _check_classes(args: argparse.Namespace, images: ImageSet) -> None:
    """Check that the loss makes sense for the classifier of the model."""
    if args.loss != "labels":
        return
    classes, hint = read_spec(args.model / "spec.json").num_classes, "use --loss views, which needs no labels"
    if str(read_facts(args.model).get("classifier", "")).startswith("new"):
        raise UserError(f"{args.model}: its classifier is not trained; {hint}")
    if len(images.classes) != classes:
        raise UserError(f"--data {args.data}: has {len(images.classes)} classes, the model {classes}; {hint}")
    if read_preprocess(args.model).classes not in ((), images.classes):
        raise UserError(f"--data {args.data}: has other classes than {args.model} was trained on; {hint}")


def _measure(task: _Task) -> Scores:
    ranks = Ranks(0, 1, 0, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    model, data = read_model(task.model).to(ranks.device), read_preprocess(task.model).apply_to(Data())
    batches = eval_batches(task.images, data, model.spec.image_size, BATCH_SIZE, ranks)
    start = printed = time.monotonic()

    def progress(done: int) -> None:
        nonlocal printed
        now = time.monotonic()
        if now - printed > PROGRESS_SECONDS:
            printed, total = now, len(task.images)
            left = (now - start) / done * (total - done)
            print(f"importance: {done} of {total} images, {left:.0f} s left", flush=True)

    return measure(model, batches, task.loss, task.weights, task.data, progress)
