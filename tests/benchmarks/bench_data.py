"""Images per CPU second: DALI against torchvision and timm on the same files, interleaved.

    python tests/benchmarks/bench_data.py [--images 400] [--rounds 3]

The files are similar to ImageNet: crops of 500 x 375 from two photographs, about 100 KB each. Rates are per second of
CPU time over all threads, which other processes on the machine hardly affect.
"""

import argparse
import itertools
import resource
import tempfile
from pathlib import Path

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


def rate(batches, count: int) -> float:
    """Return images per CPU second. The first batch is not counted: it includes the setup."""
    next(batches)
    start = cpu_seconds()
    taken = sum(BATCH for _ in itertools.islice(batches, count))
    return taken / (cpu_seconds() - start)


def main() -> None:
    """Print a table with the median of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_files(root, args.images)
        size = sum(f.stat().st_size for f in root.rglob("*.jpg")) / args.images
        steps = args.images // BATCH - 2
        cases = {
            "evaluation: DALI": lambda: dali_batches(root, None),
            "weak: DALI": lambda: dali_batches(root, Augment()),
            "weak: timm": lambda: timm_batches(root, None),
            "full: DALI": lambda: dali_batches(root, Augment(rand_augment=FULL)),
            "full: timm": lambda: timm_batches(root, FULL),
        }
        rates: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(args.rounds):
            for name, make in cases.items():
                rates[name].append(rate(make(), steps))
        files = [scan.ImageFile(str(file)) for file in root.rglob("*.jpg")]
        start = cpu_seconds()
        assert not any(scan.check_file(file) for file in files * 5)
        scanned = 5 * len(files) / (cpu_seconds() - start)
        scan.decode_errors(files[:1])
        start = cpu_seconds()
        assert not any(scan.decode_errors(files))
        decoded = len(files) / (cpu_seconds() - start)
    print(f"| {args.images} JPEGs of 500 x 375, {size / 1e3:.0f} KB | images per CPU second |\n|---|---|")
    for name, values in rates.items():
        print(f"| {name} | {np.median(values):.0f} ({min(values):.0f} ... {max(values):.0f}) |")
    print(f"| decoding only: DALI, one by one | {decoded:.0f} |\n| scan | {scanned:.0f} |")
    for recipe in ("weak", "full"):
        print(f"{recipe}: {np.median(rates[f'{recipe}: DALI']) / np.median(rates[f'{recipe}: timm']):.2f} x timm")


if __name__ == "__main__":
    main()
