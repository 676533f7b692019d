"""Images per CPU second: DALI against torchvision and timm on the same files, interleaved.

    python -m tests.benchmarks.bench_data [--rounds 10] [--json FILE]
    python -m tests.benchmarks.bench_data --device cuda [--threads 16]          DALI on the GPU, not yet run there

The files are similar to ImageNet: crops of 500 x 375 from two photographs, about 100 KB each. Rates are per second of
CPU time over all threads, which other processes on the machine hardly affect.
With ``--device cuda``, rates are images per wall-clock second of a batch of 256 on the GPU, with ``--threads`` threads
and without timm.
"""

import argparse
import itertools
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import auto_augment, create_transform
from torchvision.datasets import ImageFolder

from tests.benchmarks.timing import where, write
from vitas_ds.config import Augment, Data
from vitas_ds.data import loader, scan
from vitas_ds.data.sources import read_folder
from vitas_ds.distributed.comm import Ranks

BATCH, SIZE = 50, 224
LENGTH, TURN = 4, 3  # batches of an epoch, and of a turn
GPU_BATCH, WARM_UP = 256, 4
CASES = ("evaluation: DALI", "weak: DALI", "weak: timm", "full: DALI", "full: timm")
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


def forever(make: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """Repeat an iterator that ends. Its incomplete batches are left out."""
    while True:
        yield from itertools.islice(make(), LENGTH)


def batches_of(case: str, root: Path) -> Iterator[Any]:
    """Return the endless batches of a case."""
    recipe, library = case.split(": ")
    full = recipe == "full"
    if library == "timm":
        return forever(lambda: timm_batches(root, FULL if full else None))
    if recipe == "evaluation":
        return forever(lambda: dali_batches(root, None))
    return dali_batches(root, Augment(rand_augment=FULL if full else None))


def serve(case: str, root: Path, turns: Connection) -> None:
    """Load some batches for each message, and answer with the CPU time of this process before them."""
    torch.set_num_threads(1)
    batches = batches_of(case, root)
    next(batches)
    while turns.recv():
        turns.send(cpu_seconds())
        for _ in range(TURN):
            next(batches)
        turns.send(None)


def measure(root: Path, rounds: int) -> dict[str, list[float]]:
    """Return the images per CPU second of each case in each round.

    Each case has a process. They take turns of a few batches, so they see the same load of the machine. From the start
    of a turn to that of the next one, a process loads as many batches as it hands out, those in advance included.
    """
    context = multiprocessing.get_context("spawn")
    turns, workers = {}, []
    for case in CASES:
        turns[case], theirs = context.Pipe()
        workers.append(context.Process(target=serve, args=(case, root, theirs), daemon=True))
        workers[-1].start()
    starts: dict[str, list[float]] = {case: [] for case in CASES}
    for _ in range(rounds + 1):
        for case, pipe in turns.items():
            pipe.send(True)
            starts[case].append(pipe.recv())
            pipe.recv()
    for pipe, worker in zip(turns.values(), workers, strict=True):
        pipe.send(False)
        worker.join()
    return {case: (TURN * BATCH / np.diff(values)).tolist() for case, values in starts.items()}


def measure_gpu(root: Path, rounds: int, threads: int) -> dict[str, list[float]]:
    """Return the images per second of DALI on the GPU for each recipe, in each of ``rounds`` turns of a few batches."""
    device = torch.device("cuda", 0)
    files, ranks, data = read_folder(root), Ranks(0, 1, 0, device), Data(threads=threads)
    repeats = -(-GPU_BATCH * (WARM_UP + rounds * TURN) // len(files))
    many = files.subset(np.tile(np.arange(len(files)), repeats))
    rates = {}
    for recipe, augment in {"evaluation": None, "weak": Augment(), "full": Augment(rand_augment=FULL)}.items():
        if augment is None:
            batches = loader.eval_batches(many, data, SIZE, GPU_BATCH, ranks)
        else:
            batches = loader.train_batches(many, data, augment, SIZE, GPU_BATCH, 0, 0, ranks)
        for _ in range(WARM_UP):
            next(batches)
        rates[f"{recipe}: DALI"] = [turn_rate(batches, device) for _ in range(rounds)]
        del batches
    return rates


def turn_rate(batches: Iterator[Any], device: torch.device) -> float:
    """Return the images per second of a turn."""
    torch.cuda.synchronize(device)
    begin = time.perf_counter()
    for _ in range(TURN):
        next(batches)
    torch.cuda.synchronize(device)
    return TURN * GPU_BATCH / (time.perf_counter() - begin)


def host_rates(root: Path) -> dict[str, float]:
    """Return the images per CPU second of decoding one by one, and of the scan of the files."""
    files = [scan.ImageFile(str(file)) for file in root.rglob("*.jpg")]
    start = cpu_seconds()
    assert not any(scan.check_file(file) for file in files * 5)
    scanned = 5 * len(files) / (cpu_seconds() - start)
    scan.decode_errors(files[:1])
    start = cpu_seconds()
    assert not any(scan.decode_errors(files))
    return {"decoding only: DALI, one by one": len(files) / (cpu_seconds() - start), "scan": scanned}


def report(rates: dict[str, list[float]], unit: str) -> list[dict[str, Any]]:
    """Print the rates and the ratios to timm. Return the rows."""
    print(f"| images per {unit} | |\n|---|---|")
    rows: list[dict[str, Any]] = []
    for name, values in rates.items():
        print(f"| {name} | {np.median(values):.0f} ({min(values):.0f} ... {max(values):.0f}) |")
        row = {"what": name, "unit": f"images per {unit}", "median": float(np.median(values))}
        rows.append(row | {"lowest": min(values), "highest": max(values)})
    for recipe in ("weak", "full"):
        if f"{recipe}: timm" in rates:
            ours, reference = rates[f"{recipe}: DALI"], rates[f"{recipe}: timm"]
            ratio = np.median(np.array(ours) / np.array(reference))
            print(
                f"{recipe}: {ratio:.2f} x timm in the median round, {max(ours) / max(reference):.2f} x of the fastest"
            )
    return rows


def main() -> None:
    """Print a table with the median of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of DALI, with --device cuda")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_files(root, BATCH * LENGTH)
        size = sum(f.stat().st_size for f in root.rglob("*.jpg")) / (BATCH * LENGTH)
        print(f"{BATCH * LENGTH} JPEGs of 500 x 375, {size / 1e3:.0f} KB")
        if args.device == "cuda":
            rows = report(measure_gpu(root, args.rounds, args.threads), f"second, {args.threads} threads")
        else:
            rows = report(measure(root, args.rounds), "CPU second")
        rows += report({name: [rate] for name, rate in host_rates(root).items()}, "CPU second")
    write(args.json, {"arguments": vars(args), "where": where(torch.device(args.device)), "data": rows})


if __name__ == "__main__":
    main()
