"""Growth of cost: step and scoring against MACs, scoring against ranks, memory against batch size; tables and plots.

    python -m tests.benchmarks.bench_growth [--nets 24] [--batch 8] [--image 224] [--device cpu] [--out growth]

The subnets are drawn uniformly from the 1G space, with all depths and patch sizes. On a CPU, seconds are CPU time; for
several ranks, both the CPU time of the slowest rank and wall-clock time are measured. Not yet run on a GPU.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch

from tests.benchmarks.timing import peak_bytes, seconds, table, where, write
from tests.helpers import launching
from vitas_ds.arch import cost, genome
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.training import losses


def main() -> None:
    """Parse the command line and run the benchmark."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    device, space = torch.device(args.device), SearchSpace(image_size=args.image)
    result: dict[str, Any] = {"arguments": vars(args), "where": where(device)}
    result["nets"] = rows = _timed(args, device, space)
    macs, maps = (np.array([row[name] for row in rows]) for name in ("GMACs", "G of attention maps"))
    for part in ("step", "scoring"):
        times, result[part] = np.array([row[part] for row in rows]), {}
        for name, features in {"by MACs": [macs], "by MACs and attention maps": [macs, maps]}.items():
            slope, mean, largest = fit(times, *features)
            result[part][name] = {
                "ms per GMAC and image": round(slope / args.batch * 1e3, 1),
                "mean distance of the line": round(mean, 3),
                "largest": round(largest, 3),
            }
            print(f"{part} {name}: {result[part][name]}", flush=True)
    result["memory"] = _memory(args, device, space)
    print(table(result["memory"]), flush=True)
    possible = [n for n in args.ranks if device.type != "cuda" or n <= torch.cuda.device_count()]
    if possible != args.ranks:
        print(f"ranks: only {possible}, because each rank needs a GPU of its own")
    result["ranks"] = [_ranks(args, ranks) for ranks in possible]
    if result["ranks"]:
        print(table(result["ranks"]))
    write(f"{args.out}.json", result)
    _draw(result, args.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nets", type=int, default=24)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[4, 8, 16, 32], help="batch sizes of the memory measurement"
    )
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2], help="numbers of ranks that score")
    parser.add_argument("--image", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", default="growth", help="path of the .json and .png files, without suffix")
    return parser.parse_args()


def _supernet(space: SearchSpace, device: torch.device) -> Supernet:
    supernet = Supernet(space, "bilateral", class_token_only=True).to(device)
    init_weights(supernet, 0)
    return supernet


def _step(supernet: Supernet, subnet: SubnetSpec, batch: int, device: torch.device) -> None:
    """Run a forward and a backward pass on random images."""
    size, classes = supernet.space.image_size, supernet.space.num_classes
    images, labels = torch.randn(batch, 3, size, size, device=device), torch.arange(batch, device=device) % classes
    supernet.zero_grad()
    losses.cross_entropy(supernet(images, subnet), labels, "loss_mean").backward()


def _timed(args: argparse.Namespace, device: torch.device, space: SearchSpace) -> list[dict[str, Any]]:
    supernet = _supernet(space, device)
    images = torch.randn(args.batch, 3, args.image, args.image, device=device)
    rows = []
    for subnet in genome.decode_all(space, genome.sample(space, np.random.default_rng(0), args.nets)):

        def score(subnet: Any = subnet) -> None:
            with torch.inference_mode():
                supernet(images, subnet)

        functions = {"step": lambda subnet=subnet: _step(supernet, subnet, args.batch, device), "scoring": score}
        times = seconds(functions, args.rounds, device)
        sizes = {"GMACs": cost.spec_macs(subnet) / 1e9, "G of attention maps": _maps(subnet) / 1e9}
        rows.append({"patch": subnet.patch_size, "layers": subnet.depth} | sizes | times)
    return sorted(rows, key=lambda row: row["GMACs"])


def _maps(subnet: SubnetSpec) -> int:
    """Return the number of elements of the attention maps per image."""
    tokens = (subnet.image_size // subnet.patch_size) ** 2 + 1
    return sum(layer.num_heads for layer in subnet.active) * tokens**2


def fit(times: np.ndarray, *features: np.ndarray) -> tuple[float, float, float]:
    """Fit times with a constant and a slope per feature, minimizing the squared relative error.

    Returns:
        The first slope, and the mean and largest relative error.
    """
    design = np.stack([np.ones_like(times), *features], 1) / times[:, None]
    coefficients = np.linalg.lstsq(design, np.ones_like(times), rcond=None)[0]
    errors = abs(design @ coefficients - 1)
    return float(coefficients[1]), float(errors.mean()), float(errors.max())


def _memory(args: argparse.Namespace, device: torch.device, space: SearchSpace) -> list[dict[str, Any]]:
    """Measure the peak memory of a step above weights and gradients, for one subnet of each patch size."""
    from tests.benchmarks.bench_supernet import subnets_in_budget

    supernet, rows = _supernet(space, device), []
    for subnet in subnets_in_budget(space, list(space.patch_sizes)):
        for batch in args.batches:
            _step(supernet, subnet, 1, device)  # allocates the gradients
            peak = peak_bytes(lambda subnet=subnet, batch=batch: _step(supernet, subnet, batch, device), device)
            rows.append({"patch": subnet.patch_size, "batch": batch, "MB": round(peak / 1e6)})
    return rows


def _ranks(args: argparse.Namespace, ranks: int) -> dict[str, Any]:
    """Measure the time to score the same subnets on several ranks."""
    device = ["cuda"] if args.device == "cuda" else []
    command = [*launching.command("torchrun", ranks), "-m", "tests.benchmarks.scoring_ranks"]
    command += [str(args.nets), str(args.batch), str(args.image), *device]
    printed = launching.wait_for_process(
        launching.start_process(command, launching.environment(DS_ACCELERATOR=args.device)), command, 3600
    )
    return json.loads(printed.strip().splitlines()[-1])


def _draw(result: dict[str, Any], out: str) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(16, 3.6))
    panels = [(axes[0], "nets", "GMACs", "step"), (axes[1], "nets", "GMACs", "scoring"),
              (axes[2], "memory", "batch", "MB")]  # fmt: skip
    for axis, part, x, y in panels:
        for patch in sorted({row["patch"] for row in result[part]}):
            rows = [row for row in result[part] if row["patch"] == patch]
            axis.plot([r[x] for r in rows], [r[y] for r in rows], "o-" if y == "MB" else "o", label=f"patch {patch}")
        axis.set(xlabel=x, ylabel=y if y == "MB" else "seconds", title="memory of a step" if y == "MB" else y)
        axis.legend()
    for name in ("seconds", "CPU seconds of a rank"):
        base = result["ranks"][0][name] if result["ranks"] else 1
        axes[3].plot([r["ranks"] for r in result["ranks"]], [base / r[name] for r in result["ranks"]], "o-", label=name)
    axes[3].set(xlabel="ranks", ylabel="speed-up", title="scoring", xticks=[r["ranks"] for r in result["ranks"]])
    axes[3].legend()
    for axis in axes:
        axis.set(xlim=(0, None), ylim=(0, None))
    figure.tight_layout()
    figure.savefig(f"{out}.png", dpi=80)
    print(f"wrote {out}.png")


if __name__ == "__main__":
    main()
