"""How cost grows: step time and scoring time of random nets against their MACs, as a table, a fit and a plot.

    python -m tests.benchmarks.bench_growth [--nets 24] [--batch 8] [--image 224] [--device cpu] [--out growth]

Nets are uniform in the 1G space, of all depths and patch sizes. On a CPU seconds are CPU time. Not yet run on a GPU.
Also here: specs priced, drawn and decoded a second, on one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tests.benchmarks.timing import seconds, table, where, write
from vitas_ds import cost, genome, rules
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.space import SearchSpace


def main() -> None:
    """Run what the flags say."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nets", type=int, default=24)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--image", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", default="growth", help="beginning of the names of the .json and the .png")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device, space = torch.device(args.device), SearchSpace(image_size=args.image)
    rows = _timed(args, device, space)
    result: dict[str, Any] = {"arguments": vars(args), "where": where(device), "nets": rows, "rates": rates(space)}
    for what in ("step", "scoring"):
        slope, error = fitted(np.array([row["GMACs"] for row in rows]), np.array([row[what] for row in rows]))
        result[what] = {"ms per GMAC and image": slope / args.batch * 1e3, "mean distance of the line": error}
        print(f"{what}: {result[what]}")
    print(table([{"what": name, "a second": rate} for name, rate in result["rates"].items()]))
    write(f"{args.out}.json", result)
    _draw(rows, args.out)


def _timed(args: argparse.Namespace, device: torch.device, space: SearchSpace) -> list[dict[str, Any]]:
    supernet = Supernet(space, "bilateral", class_token_only=True).to(device)
    init_weights(supernet, 0)
    images = torch.randn(args.batch, 3, args.image, args.image, device=device)
    labels = torch.randint(space.num_classes, (args.batch,), device=device)
    rows = []
    for row in genome.sample(space, np.random.default_rng(0), args.nets):
        net = genome.decode(space, row)

        def step(net: Any = net) -> None:
            supernet.zero_grad()
            rules.loss_of(supernet(images, net), labels, "loss_mean").backward()

        def score(net: Any = net) -> None:
            with torch.inference_mode():
                supernet(images, net)

        times = seconds({"step": step, "scoring": score}, args.rounds, device)
        rows.append({"patch": net.patch_size, "layers": net.depth, "GMACs": cost.spec_macs(net) / 1e9} | times)
    return sorted(rows, key=lambda row: row["GMACs"])


def fitted(macs: np.ndarray, times: np.ndarray) -> tuple[float, float]:
    """Slope of the line with the least relative error, and the mean relative distance of the measurements from it."""
    design = np.stack([np.ones_like(macs), macs], 1) / times[:, None]
    start, slope = np.linalg.lstsq(design, np.ones_like(times), rcond=None)[0]
    return float(slope), float(abs((start + slope * macs) / times - 1).mean())


def rates(space: SearchSpace, count: int = 20000) -> dict[str, float]:
    """Specs a second."""
    drawn = genome.sample(space, np.random.default_rng(0), count)
    specs = [genome.decode(space, row) for row in drawn[:500]]
    columns = genome.columns(space, drawn)
    works: dict[str, tuple[int, Callable[[], Any]]] = {
        "drawn": (count, lambda: genome.sample(space, np.random.default_rng(1), count)),
        "turned into columns": (count, lambda: genome.columns(space, drawn)),
        "priced (MACs)": (count, lambda: cost.macs(columns)),
        "decoded, one by one": (500, lambda: [genome.decode(space, row) for row in drawn[:500]]),
        "encoded, one by one": (500, lambda: [genome.encode(space, spec) for spec in specs]),
    }
    found: dict[str, float] = {}
    for name, (number, work) in works.items():
        begin = time.process_time()
        work()
        found[name] = round(number / (time.process_time() - begin))
    return found


def _draw(rows: list[dict[str, Any]], out: str) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5))
    for axis, what in zip(axes, ("step", "scoring"), strict=True):
        for patch in sorted({row["patch"] for row in rows}):
            some = [row for row in rows if row["patch"] == patch]
            axis.plot([r["GMACs"] for r in some], [r[what] for r in some], "o", label=f"patch {patch}")
        axis.set(xlabel="GMACs of the net", ylabel="seconds", title=what, xlim=0, ylim=0)
        axis.legend()
    figure.tight_layout()
    figure.savefig(f"{out}.png", dpi=120)
    print(f"written: {out}.png")


if __name__ == "__main__":
    main()
