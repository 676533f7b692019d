"""Learning rate schedule."""

from __future__ import annotations

import math

from vitas_ds import config


def cosine_lr(training: config.Training, step: int, steps_per_epoch: float) -> float:
    """Return the learning rate of global step ``step`` (from 0): linear warm-up from 0, cosine decay to ``min_lr``."""
    total, warmup = training.epochs * steps_per_epoch, training.warmup_epochs * steps_per_epoch
    if step < warmup:
        return training.lr * step / warmup
    progress = min(1.0, (step - warmup) / max(1.0, total - warmup))
    return training.min_lr + (training.lr - training.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
