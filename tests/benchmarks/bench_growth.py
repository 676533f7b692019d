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
from vitas_ds.arch import cost, genome
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.training import losses


def main() -> None:
    """Run what the flags say."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    device, space = torch.device(args.device), SearchSpace(image_size=args.image)
    result: dict[str, Any] = {"arguments": vars(args), "where": where(device)}
    result["nets"] = rows = _timed(args, device, space)
    macs, maps = (np.array([row[name] for row in rows]) for name in ("GMACs", "G of attention maps"))
    for what in ("step", "scoring"):
        times, result[what] = np.array([row[what] for row in rows]), {}
        for name, features in {"by MACs": [macs], "by MACs and attention maps": [macs, maps]}.items():
            slope, mean, most = fitted(times, *features)
            result[what][name] = {"ms per GMAC and image": round(slope / args.batch * 1e3, 1),
                                  "mean distance of the line": round(mean, 3), "largest": round(most, 3)}  # fmt: skip
            print(f"{what} {name}: {result[what][name]}", flush=True)
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
    losses.cross_entropy(supernet(images, net), labels, "loss_mean").backward()


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
        sizes = {"GMACs": cost.spec_macs(net) / 1e9, "G of attention maps": _maps(net) / 1e9}
        rows.append({"patch": net.patch_size, "layers": net.depth} | sizes | times)
    return sorted(rows, key=lambda row: row["GMACs"])


def _maps(net: SubnetSpec) -> int:
    """Elements of the attention maps of an image."""
    tokens = (net.image_size // net.patch_size) ** 2 + 1
    return sum(layer.num_heads for layer in net.active) * tokens**2


def fitted(times: np.ndarray, *features: np.ndarray) -> tuple[float, float, float]:
    """Times as a sum of a start and slopes times features, with the least relative error.

    Returns the first slope; mean and largest relative distance of the measurements from it.
    """
    design = np.stack([np.ones_like(times), *features], 1) / times[:, None]
    found = np.linalg.lstsq(design, np.ones_like(times), rcond=None)[0]
    away = abs(design @ found - 1)
    return float(found[1]), float(away.mean()), float(away.max())


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
    printed = launching.wait_for_process(launching.start_process(words, launching.environment()), words, 3600)
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
