"""Accuracy of a network during retraining, on search images held out of its training.

The held-out images depend on ``retrain.eval_images``, not on ``retrain.eval_every``: measuring more or less often does
not change the training. They are search images, which a supernet was not trained on either, so the accuracy of
inherited weights is right too. The validation images are left to the stage evaluate.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vitas_ds.config import Config
from vitas_ds.data.sources import ImageSet, search_mask
from vitas_ds.distributed.comm import Ranks
from vitas_ds.errors import UserError
from vitas_ds.search.scoring.scorer import balanced_order
from vitas_ds.stages.common import training_images
from vitas_ds.training.accuracy import BACKWARD, MIN_IMAGES, measure_accuracy, schedule
from vitas_ds.training.task import Task, count_steps

SHARE = 0.01  # of the images, by default
FEWEST = 100  # by default: the standard error of an accuracy of 90 % is then 3 %
FEWEST_TRAINED = 2000  # of fewer images, none are held out by default: they would be missed in the training


def held_out_images(config: Config, images: ImageSet | None = None) -> tuple[ImageSet, ImageSet]:
    """Split ``data.train``, or ``images``, into the images to retrain on, and those to measure the accuracy on.

    Raises:
        UserError: There are fewer search images than ``retrain.eval_images``, or a class has too few images.
    """
    images = training_images(config) if images is None else images
    count = held_out_count(config, len(images))
    if not count:
        return images, images.subset(np.array([], np.int64))
    try:
        search = np.flatnonzero(search_mask(images, config.data.search_per_class, config.run.seed))
    except UserError as error:
        raise UserError(f"{error}; retrain.eval_images=0 needs no search images") from None
    held_out = np.zeros(len(images), bool)
    held_out[search[balanced_order(images.labels[search], count, config.run.seed)]] = True
    return images.subset(np.flatnonzero(~held_out)), images.subset(np.flatnonzero(held_out))


def held_out_count(config: Config, total: int) -> int:
    """Return the number of images that ``retrain.eval_images`` holds out of ``total`` training images.

    Raises:
        UserError: It is more than the search images.
    """
    chosen, available = config.retrain.eval_images, config.data.search_per_class * config.space.num_classes
    if chosen is None:
        count = min(max(FEWEST, round(SHARE * total)), available)
        return count if count >= MIN_IMAGES and total >= FEWEST_TRAINED else 0
    if chosen > available:
        raise UserError(
            f"retrain.eval_images: {chosen}, but there are only {available} search images; increase "
            "data.search_per_class"
        )
    return chosen


def with_accuracy(task: Task, ranks: Ranks, held_out: ImageSet) -> Task:
    """Add the accuracy on the held-out images to a task of retraining, as ``retrain.eval_every`` says."""
    if not len(held_out):
        return task
    config, steps = task.config, count_steps(task)
    trained = float(steps[1] * task.training.batch_size * (1 + BACKWARD))
    when = schedule(config.retrain.eval_every, steps, trained, len(held_out))
    if ranks.is_main:
        if when:
            share = f"{when.share:.1%} of the computation"
            how = f"top-1 is measured on {when.images:,} of them every {when.every:,} steps, {share}"
        elif config.retrain.eval_every is None:
            how = "the training is too short to measure top-1"
        else:
            how = "retrain.eval_every is 0"
        print(f"retrain: {len(task.images):,} images to train on, {len(held_out):,} held out; {how}")
    if when is None:
        return task
    images = held_out.subset(balanced_order(held_out.labels, when.images, config.run.seed))
    evaluation = measure_accuracy(
        images, config.data, config.space.image_size, ranks, when.every, averaged=task.training.ema_decay > 0
    )
    return replace(task, evaluation=evaluation)
