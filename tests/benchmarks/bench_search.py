"""A complete search against scoring each of its candidates on all images, one by one, from JPEGs.

    python -m tests.benchmarks.bench_search [--candidates 2000] [--images 400] [--device cpu] [--json bench_search.json]
    python -m tests.benchmarks.bench_search --candidates 200 --images 100     a few minutes, to try it

The search uses the space and budget of the quickstart on digits, and a supernet trained for ``--steps`` steps. It runs
twice with the same seed, without and with racing. The reference follows the first release: it decodes the images again
for each candidate, and runs each side with the plain formulation (plain.py). It scores the candidates of the search
without racing, hence its best score is the same. Only ``--sample`` candidates are scored and timed; the cost of the
others is extrapolated from their mean. The sampled scores must agree. All times are CPU seconds; with
``--device cuda``, networks and DALI run on the GPU, and times are wall-clock seconds.

The last table projects the result to 224 pixels and subnets of 0.9G to 1.0G of the 1G space, where the ratio of
decoding to the forward pass differs. Seconds per image are measured there; the share of images that racing saves is
kept.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.benchmarks import plain
from tests.benchmarks.bench_data import make_files
from tests.benchmarks.bench_supernet import subnets_in_budget
from tests.benchmarks.timing import clock_of, table, where, write
from tests.helpers.digits import write_digits
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.config import Config, Data
from vitas_ds.data.loader import decode_all, eval_batches, normalize
from vitas_ds.data.sources import ImageSet, read_folder
from vitas_ds.distributed.comm import Ranks
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.recipe import load
from vitas_ds.search.loop import run_loop
from vitas_ds.search.problem import SearchProblem
from vitas_ds.search.ranking import Result
from vitas_ds.search.scoring import racing
from vitas_ds.search.scoring.evaluation import Evaluator
from vitas_ds.search.scoring.ledger import in_memory
from vitas_ds.search.scoring.scorer import Scorer, balanced_order, split_rounds
from vitas_ds.training import losses, sampling


def main() -> None:
    """Parse the command line and run the benchmark."""
    args = _arguments()
    torch.set_num_threads(1)
    ranks = Ranks(0, 1, 0, torch.device(args.device, 0) if args.device == "cuda" else torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        write_digits(Path(folder), args.images // 10 + args.learned, 0)
        cfg = load("quickstart", [
            f"data.train={folder}/train", f"search.population={args.population}", "data.threads=1",
            f"search.generations={args.candidates // args.population}", f"data.search_per_class={args.images // 10}",
        ])  # fmt: skip
        everything = read_folder(cfg.data.train)
        rank_in_class = np.arange(len(everything)) % (args.images // 10 + args.learned)
        held = rank_in_class < args.images // 10
        supernet = train(cfg, everything.subset(np.flatnonzero(~held)), args.steps, ranks)
        rows, saved = compare(cfg, supernet, everything.subset(np.flatnonzero(held)), args, ranks)
    print(table(rows), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        projected = project(Path(folder), saved, args.large_images, ranks)
    print(f"\nprojected to 224 pixels, in ms per image and candidate\n{table(projected)}")
    result = {"arguments": vars(args), "where": where(ranks.device), "search": rows, "carried over": projected}
    write(args.json, result)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--candidates", type=int, default=2000)
    parser.add_argument("--population", type=int, default=50)
    parser.add_argument("--images", type=int, default=400, help="search images, a multiple of 10")
    parser.add_argument("--learned", type=int, default=100, help="training images per class")
    parser.add_argument("--steps", type=int, default=600, help="training steps of the supernet")
    parser.add_argument("--racing", type=float, default=0.95, help="search.racing of the second search")
    parser.add_argument("--sample", type=int, default=10, help="candidates that are scored with the reference")
    parser.add_argument("--large-images", type=int, default=16, help="images at 224 pixels")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", default="bench_search.json")
    return parser.parse_args()


def train(cfg: Config, images: ImageSet, steps: int, ranks: Ranks) -> Supernet:
    """Train the quickstart's supernet with torch's AdamW."""
    supernet = Supernet(cfg.space, cfg.supernet.sharing, cfg.supernet.private_attention, class_token_only=True)
    init_weights(supernet, 0)
    supernet.to(ranks.device)
    pixels = normalize(decode_all(images, cfg.data, cfg.space.image_size, ranks).to(ranks.device), cfg.data)
    labels, rng = torch.from_numpy(images.labels).to(ranks.device), np.random.default_rng(0)
    adamw = torch.optim.AdamW(supernet.parameters(), 2e-3)
    prob = sampling.fit_identity_prob(cfg.space, *cfg.search.macs)
    for step in range(steps):
        ids = torch.from_numpy(rng.integers(0, len(images), cfg.supernet.batch_size)).to(ranks.device)
        adamw.zero_grad()
        for subnet in sampling.subnets_of_step(cfg.space, cfg.supernet, 0, step, prob):
            losses.cross_entropy(supernet(pixels[ids], subnet), labels[ids], cfg.supernet.objective).backward()
        adamw.step()
    return supernet.eval()


def compare(
    cfg: Config, supernet: Supernet, images: ImageSet, args: argparse.Namespace, ranks: Ranks
) -> tuple[list[dict[str, Any]], float]:
    """Run both searches and the reference; return their rows and the share of images that racing saved."""
    clock = clock_of(ranks.device)
    begin = clock()
    pixels = decode_all(images, cfg.data, cfg.space.image_size, ranks).to(ranks.device)
    decoding = clock() - begin
    order, labels = balanced_order(images.labels, 0, 0), torch.from_numpy(images.labels).to(ranks.device)
    scorer = Scorer(supernet, pixels, labels, lambda x: normalize(x, cfg.data), order, ranks, cfg.data.eval_batch_size)
    found, rows = {}, []
    for name in ("search", "search with racing"):
        race = racing.Race(split_rounds(scorer), args.racing, in_memory()) if "racing" in name else None
        found[name], seconds, first = run_search(cfg, scorer, race, clock)
        forward = sum(candidate.images for candidate in found[name].candidates)
        rows.append({"what": name, "seconds": seconds + decoding, "best score": found[name].best.value,
                     "images scored": forward, "best found after": first + decoding})  # fmt: skip
    full = found["search"].candidates
    chosen = [full[i] for i in np.linspace(0, len(full) - 1, args.sample).astype(int)]
    begin = clock()
    scores = [from_jpegs(supernet, images, cfg.data, entry.spec, ranks) for entry in chosen]
    seconds = (clock() - begin) / len(chosen) * len(full)
    difference = max(abs(score - entry.value) for score, entry in zip(scores, chosen, strict=True))
    # rounding may change the prediction of one image
    assert difference <= 1 / len(images), f"the plain scores differ by {difference}"
    plain_row = {"what": f"one by one, from JPEGs (of {args.sample})", "seconds": seconds,
                 "best score": rows[0]["best score"], "images scored": rows[0]["images scored"],
                 "best found after": seconds}  # fmt: skip
    rows = [{**row, "share": row["seconds"] / seconds} for row in (plain_row, *rows)]
    return rows, 1 - rows[2]["images scored"] / rows[1]["images scored"]


def run_search(
    cfg: Config, scorer: Scorer, race: racing.Race | None, clock: Callable[[], float]
) -> tuple[Result, float, float]:
    """Return the result, its seconds, and those until the generation of the best candidate was scored."""
    begin, history = clock(), []
    found = run_loop(
        SearchProblem(cfg.space, cfg.search, 0),
        Evaluator(scorer, in_memory(), scorer.images),
        race,
        lambda summary: history.append((summary.generation, clock() - begin)),
    )
    return found, clock() - begin, dict(history)[found.best.generation]


def from_jpegs(supernet: Supernet, images: ImageSet, data: Data, spec: SubnetSpec, ranks: Ranks) -> float:
    """Score a candidate like the first release: mean accuracy over the sides, with images decoded from JPEGs."""
    correct, named = 0, plain.tensors(supernet)
    with torch.inference_mode():
        for batch in eval_batches(images, data, supernet.space.image_size, data.eval_batch_size, ranks):
            logits = plain.logits(named, supernet.space, supernet.sides, batch.images, spec)
            correct += int((logits.argmax(-1) == batch.labels).sum())
    return correct / len(images) / len(supernet.sides)


def project(root: Path, saved: float, count: int, ranks: Ranks) -> list[dict[str, Any]]:
    """Measure milliseconds per image and candidate at 224 pixels, for one subnet of each patch size."""
    make_files(root, count)
    images, data = read_folder(root), Data(threads=1)
    clock = clock_of(ranks.device)
    with timer(clock) as decoding:
        pixels = torch.cat([batch.images for batch in eval_batches(images, data, 224, count, ranks)])
    space, rows = SearchSpace(), []
    supernet = Supernet(space, "bilateral", class_token_only=True).eval()
    init_weights(supernet, 0)
    supernet.to(ranks.device)
    named = plain.tensors(supernet)
    for subnet in subnets_in_budget(space, list(space.patch_sizes)):
        plain_ms = _milliseconds(
            lambda x, subnet=subnet: plain.logits(named, space, supernet.sides, x, subnet), pixels, clock
        )
        ours = _milliseconds(lambda x, subnet=subnet: supernet(x, subnet), pixels, clock)
        decode = decoding[0] / count * 1e3
        share = ours / (decode + plain_ms)
        rows.append({"net": f"patch {subnet.patch_size}", "decoding": decode, "plain": plain_ms, "ours": ours,
                     "share": share, "with racing": share * (1 - saved)})  # fmt: skip
    return rows


def _milliseconds(forward: Any, pixels: Tensor, clock: Callable[[], float]) -> float:
    with torch.inference_mode():
        forward(pixels)
        with timer(clock) as seconds:
            forward(pixels)
    return seconds[0] / len(pixels) * 1e3


@contextmanager
def timer(clock: Callable[[], float]) -> Iterator[list[float]]:
    """Measure the seconds of the block; yield a list with the result."""
    found, begin = [0.0], clock()
    yield found
    found[0] = clock() - begin


if __name__ == "__main__":
    main()
