"""A small study of tests/benchmarks/fidelity on the digits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.benchmarks.fidelity import study
from vitas_ds import recipe

CLASSES, TRAIN, SEARCH, VAL = 10, 20, 4, 10  # images of each class


def small_study(root: Path, *overrides: str, **size: Any) -> study.Study:
    """Return a study of the digits in the space of CIFAR-10, with batches of 50 images."""
    paths = [f"data.train={root}/train", f"data.val={root}/val", f"data.search_per_class={SEARCH}"]
    batch = ["retrain.batch_size=50", "supernet.batch_size=50"]
    return study.Study(recipe.load(study.CIFAR10, [*paths, *batch, *overrides]), replace(study.SMALL, **size))
