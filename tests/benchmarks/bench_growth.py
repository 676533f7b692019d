"""How cost grows: step and scoring against MACs, scoring against ranks, memory against the batch; tables and plots.

    python -m tests.benchmarks.bench_growth [--nets 24] [--batch 8] [--image 224] [--device cpu] [--out growth]

Nets are uniform in the 1G space, of all depths and patch sizes. On a CPU seconds are CPU time; for the ranks that of
the slowest rank, next to the clock. Not yet run on a GPU.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch

from tests import launching
from tests.benchmarks.timing import peak_bytes, seconds, table, where, write
from vitas_ds import cost, genome, rules
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.space import SearchSpace
from vitas_ds.spec import SubnetSpec


def main() -> None:
    """Run what the flags say."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    device, space = torch.device(args.device), SearchSpace(image_size=args.image)
    result: dict[str, Any] = {"arguments": vars(args), "where": where(device)}
    result["nets"] = rows = _timed(args, device, space)
    for what in ("step", "scoring"):
        slope, mean, most = fitted(np.array([row["GMACs"] for row in rows]), np.array([row[what] for row in rows]))
        result[what] = {"ms per GMAC and image": slope / args.batch * 1e3, "mean distance of the line": mean,
                        "largest distance": most}  # fmt: skip
        print(f"{what}: {result[what]}", flush=True)
    result["memory"] = _memory(args, device, space)
    print(table(result["memory"]), flush=True)
    result["ranks"] = [_ranks(args, ranks) for ranks in args.ranks]
    if result["ranks"]:
        print(table(result["ranks"]))
    write(f"{args.out}.json", result)
    _draw(result, args.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nets", type=int, default=24)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8, 16, 32], help="of which memory is measured")
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2], help="numbers of ranks that score")
    parser.add_argument("--image", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", default="growth", help="beginning of the names of the .json and the .png")
    return parser.parse_args()


def _supernet(space: SearchSpace, device: torch.device) -> Supernet:
    supernet = Supernet(space, "bilateral", class_token_only=True).to(device)
    init_weights(supernet, 0)
    return supernet


def _step(supernet: Supernet, net: SubnetSpec, batch: int, device: torch.device) -> None:
    """A forward and a backward pass on random images."""
    size, classes = supernet.space.image_size, supernet.space.num_classes
    images, labels = torch.randn(batch, 3, size, size, device=device), torch.arange(batch, device=device) % classes
    supernet.zero_grad()
    rules.loss_of(supernet(images, net), labels, "loss_mean").backward()


def _timed(args: argparse.Namespace, device: torch.device, space: SearchSpace) -> list[dict[str, Any]]:
    supernet = _supernet(space, device)
    images = torch.randn(args.batch, 3, args.image, args.image, device=device)
    rows = []
    for net in genome.decode_all(space, genome.sample(space, np.random.default_rng(0), args.nets)):

        def score(net: Any = net) -> None:
            with torch.inference_mode():
                supernet(images, net)

        works = {"step": lambda net=net: _step(supernet, net, args.batch, device), "scoring": score}
        times = seconds(works, args.rounds, device)
        rows.append({"patch": net.patch_size, "layers": net.depth, "GMACs": cost.spec_macs(net) / 1e9} | times)
    return sorted(rows, key=lambda row: row["GMACs"])


def fitted(macs: np.ndarray, times: np.ndarray) -> tuple[float, float, float]:
    """Slope of the line with the least relative error; mean and largest relative distance of measurements from it."""
    design = np.stack([np.ones_like(macs), macs], 1) / times[:, None]
    start, slope = np.linalg.lstsq(design, np.ones_like(times), rcond=None)[0]
    away = abs((start + slope * macs) / times - 1)
    return float(slope), float(away.mean()), float(away.max())


def _memory(args: argparse.Namespace, device: torch.device, space: SearchSpace) -> list[dict[str, Any]]:
    """Peak of a step above weights and gradients, of one net of each patch size, and what the spec says is kept."""
    from tests.benchmarks.bench_supernet import _nets

    supernet, rows = _supernet(space, device), []
    for net in _nets(space, list(space.patch_sizes)):
        for batch in args.batches:
            _step(supernet, net, 1, device)  # so that the gradients are there before
            peak = peak_bytes(lambda net=net, batch=batch: _step(supernet, net, batch, device), device)
            rows.append({"patch": net.patch_size, "batch": batch, "MB": round(peak / 1e6)})
    return rows


def _ranks(args: argparse.Namespace, ranks: int) -> dict[str, Any]:
    """What scoring of the same nets takes on some ranks."""
    device = ["cuda"] if args.device == "cuda" else []
    words = [*launching.command("torchrun", ranks), "-m", "tests.benchmarks.scoring_ranks"]
    words += [str(args.nets), str(args.batch), str(args.image), *device]
    printed = launching.end(launching.begin(words, launching.environment()), words, 3600)
    return json.loads(printed.strip().splitlines()[-1])


def _draw(result: dict[str, Any], out: str) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(16, 3.6))
    panels = [(axes[0], "nets", "GMACs", "step"), (axes[1], "nets", "GMACs", "scoring"),
              (axes[2], "memory", "batch", "MB")]  # fmt: skip
    for axis, part, x, y in panels:
        for patch in sorted({row["patch"] for row in result[part]}):
            some = [row for row in result[part] if row["patch"] == patch]
            axis.plot([r[x] for r in some], [r[y] for r in some], "o-" if y == "MB" else "o", label=f"patch {patch}")
        axis.set(xlabel=x, ylabel=y if y == "MB" else "seconds", title="memory of a step" if y == "MB" else y)
        axis.legend()
    for name in ("seconds", "CPU seconds of a rank"):
        base = result["ranks"][0][name] if result["ranks"] else 1
        axes[3].plot([r["ranks"] for r in result["ranks"]], [base / r[name] for r in result["ranks"]], "o-", label=name)
    axes[3].set(xlabel="ranks", ylabel="times as fast", title="scoring", xticks=[r["ranks"] for r in result["ranks"]])
    axes[3].legend()
    for axis in axes:
        axis.set(xlim=(0, None), ylim=(0, None))
    figure.tight_layout()
    figure.savefig(f"{out}.png", dpi=80)
    print(f"written: {out}.png")


if __name__ == "__main__":
    main()
