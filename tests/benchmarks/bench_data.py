"""Images per CPU second: DALI against torchvision and timm on the same files, interleaved.

    python tests/benchmarks/bench_data.py [--rounds 12]

The files are similar to ImageNet: crops of 500 x 375 from two photographs, about 100 KB each. Rates are per second of
CPU time over all threads, which other processes on the machine hardly affect.
"""

import argparse
import itertools
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import auto_augment, create_transform
from torchvision.datasets import ImageFolder

from vitas_ds.config import Augment, Data
from vitas_ds.data import loader, scan
from vitas_ds.data.sources import read_folder
from vitas_ds.distributed.comm import Ranks

BATCH, SIZE = 50, 224
LENGTH = 4  # batches of an epoch
FULL = "rand-m9-mstd0.5-inc1"
ALONE = Ranks(0, 1, 0, torch.device("cpu"))


def make_files(root: Path, count: int) -> None:
    """Write JPEGs of 500 x 375, with noise to match the file size of ImageNet."""
    rng = np.random.default_rng(0)
    photos = load_sample_images().images
    for i in range(count):
        (root / f"c{i % 4}").mkdir(exist_ok=True)
        top, left = rng.integers(0, 50), rng.integers(0, 140)
        part = photos[i % 2][top : top + 375, left : left + 500] + rng.normal(0, 12, (375, 500, 3))
        Image.fromarray(part.clip(0, 255).astype(np.uint8)).save(root / f"c{i % 4}" / f"{i:05}.jpg", quality=90)


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its finished children."""
    parts = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in parts)


def dali_batches(root: Path, augment: Augment | None):
    """Return batches from DALI; without ``augment``, those of evaluation."""
    images, data = read_folder(root), Data(threads=1)
    if augment is None:
        return loader.eval_batches(images, data, SIZE, BATCH, ALONE)
    return loader.train_batches(images, data, augment, SIZE, BATCH, 0, 0, ALONE)


def posterize(image: Image.Image, bits: int, **_) -> Image.Image:
    """Replace timm's function, which fails for 0 bits with Pillow 13."""
    return image.point(lambda value: value & (256 - 2 ** (8 - bits)))


def timm_batches(root: Path, policy: str | None):
    """Return batches from timm's transforms on Pillow images, in this process: without the cost of workers."""
    auto_augment.NAME_TO_OP["PosterizeIncreasing"] = posterize
    transform = create_transform(
        SIZE, is_training=True, auto_augment=policy, interpolation="bicubic", re_prob=0.25, re_mode="pixel",
        color_jitter=0.0,
    )  # fmt: skip
    return iter(torch.utils.data.DataLoader(ImageFolder(root, transform), BATCH, shuffle=True))


def settle() -> float:
    """Wait until threads that prepare batches in advance are idle, and return the CPU time of this process."""
    used = cpu_seconds()
    while True:
        time.sleep(0.05)
        before, used = used, cpu_seconds()
        if used - before < 0.002:
            return used


def measure(cases: dict[str, Callable[[], Iterator[Any]]], rounds: int, batches: int) -> dict[str, list[float]]:
    """Return the images per CPU second of each case in each round.

    All cases take turns of a few batches, so they see the same load of the machine. A turn ends when its threads have
    replaced the batches that it took.
    """
    running = {name: make() for name, make in cases.items()}
    rates: dict[str, list[float]] = {name: [] for name in cases}
    for name, case in running.items():
        next(case), settle()
    for _ in range(rounds):
        for name, case in running.items():
            start = settle()
            taken = sum(BATCH for _ in itertools.islice(case, batches))
            rates[name].append(taken / (settle() - start))
    return rates


def forever(make: Callable[[], Iterator[Any]]) -> Callable[[], Iterator[Any]]:
    """Repeat an iterator that ends. Its incomplete batches are left out."""

    def batches() -> Iterator[Any]:
        while True:
            yield from itertools.islice(make(), LENGTH)

    return batches


def main() -> None:
    """Print a table with the median of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_files(root, BATCH * LENGTH)
        size = sum(f.stat().st_size for f in root.rglob("*.jpg")) / (BATCH * LENGTH)
        cases = {
            "evaluation: DALI": forever(lambda: dali_batches(root, None)),
            "weak: DALI": lambda: dali_batches(root, Augment()),
            "weak: timm": forever(lambda: timm_batches(root, None)),
            "full: DALI": lambda: dali_batches(root, Augment(rand_augment=FULL)),
            "full: timm": forever(lambda: timm_batches(root, FULL)),
        }
        rates = measure(cases, args.rounds, batches=2)
        files = [scan.ImageFile(str(file)) for file in root.rglob("*.jpg")]
        start = cpu_seconds()
        assert not any(scan.check_file(file) for file in files * 5)
        scanned = 5 * len(files) / (cpu_seconds() - start)
        scan.decode_errors(files[:1])
        start = cpu_seconds()
        assert not any(scan.decode_errors(files))
        decoded = len(files) / (cpu_seconds() - start)
    print(f"| {BATCH * LENGTH} JPEGs of 500 x 375, {size / 1e3:.0f} KB | images per CPU second |\n|---|---|")
    for name, values in rates.items():
        print(f"| {name} | {np.median(values):.0f} ({min(values):.0f} ... {max(values):.0f}) |")
    print(f"| decoding only: DALI, one by one | {decoded:.0f} |\n| scan | {scanned:.0f} |")
    for recipe in ("weak", "full"):
        ours, reference = rates[f"{recipe}: DALI"], rates[f"{recipe}: timm"]
        ratios = np.array(ours) / np.array(reference)
        print(
            f"{recipe}: {np.median(ratios):.2f} x timm in the median round, fastest {max(ours) / max(reference):.2f} x"
        )


if __name__ == "__main__":
    main()
