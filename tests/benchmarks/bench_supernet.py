"""Speed of supernet, scoring and retraining against the first release (plain.py) and timm, in one process.

    python -m tests.benchmarks.bench_supernet                          full size, about 12 minutes on one core
    python -m tests.benchmarks.bench_supernet --batch 4 --rounds 1     about a minute, to try it
    python -m tests.benchmarks.bench_supernet --device cuda --batch 128    not yet run on a GPU

The subnets have 0.9G to 1.0G FLOPs of the 1G space, one of each patch size. Loss and gradients are checked before the
timing. Each measurement is interleaved with the first release's formulation and with a large matrix product of the
same dtype. The share of the rate is the MACs per second (computed from the spec) relative to that product. On a CPU,
seconds are CPU time.

``retraining`` compares timm's deit_small with ours in the same process: also compiled if the device is a GPU
(``--compile`` compiles on a CPU too). Images per second, MFU, memory and GPU utilization are those of ours where the
device reports them. A check of loss or gradients that fails is reported at the end, with exit status 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor

from tests.benchmarks import plain
from tests.benchmarks.timing import gpu_utilization, large_product, peak_bytes, seconds, table, where, write
from vitas_ds.arch import cost, genome
from vitas_ds.arch.published import published
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.engine.peak import FLOPS_PER_MAC, device_peak
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.training import losses

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-6, 1e-5  # relative, in fp32
Forward = Callable[[Tensor], Tensor]


def main() -> int:
    """Parse the command line, run the benchmark, and return the exit status."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    torch.manual_seed(0)
    space = SearchSpace(image_size=args.image)
    subnets = subnets_in_budget(space, args.patches)
    images = torch.randn(args.batch, 3, args.image, args.image, device=device)
    labels = torch.randint(space.num_classes, (args.batch,), device=device)
    result: dict[str, Any] = {
        "arguments": vars(args),
        "where": where(device),
        "nets": [subnet.to_dict() for subnet in subnets],
    }
    print(f"{result['where']['device']}, {args.threads} threads")
    bench = _Bench(args, device, images, labels)
    parts = {"step": bench.steps, "scoring": bench.scoring, "memory": bench.memory}
    for part, run in parts.items():
        if part in args.only:
            rows = [row for subnet in subnets for row in run(space, subnet)]
            result[part] = rows = rows + _aggregate(rows)
            print(f"\n{part}\n{table(rows)}", flush=True)
    if "fixed" in args.only:
        result["fixed"] = bench.fixed()
        print(f"\nretraining\n{table(result['fixed'])}", flush=True)
    result["checks"] = bench.checks
    write(args.json, result)
    failed = [row for row in bench.checks if not row["passed"]]
    for row in failed:
        print(f"bench_supernet: differs from the plain formulation: {row}", file=sys.stderr)
    return int(bool(failed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--image", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3, help="timed repetitions; the median is reported")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--patches", type=int, nargs="+", default=[14, 16, 32], help="one subnet of each patch size")
    parser.add_argument(
        "--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES), help="use only fp32 on CPUs without bf16"
    )
    parser.add_argument("--compile", action="store_true", help="compile the fixed nets on a CPU too")
    parser.add_argument("--only", nargs="+", default=["step", "scoring", "memory", "fixed"])
    parser.add_argument("--json", default="bench_supernet.json", help="output file; empty: none")
    return parser.parse_args()


def subnets_in_budget(space: SearchSpace, patches: list[int]) -> list[SubnetSpec]:
    """Return the first random subnet of each patch size with 0.9G to 1.0G FLOPs as counted by the first release."""
    found = genome.sample(space, np.random.default_rng(0), 20000, identity_prob=0.35)
    flops = cost.vitas_flops(genome.width_table(space, found))
    if space.image_size == 224:
        found = found[(flops >= 0.9e9) & (flops <= 1.0e9)]
    return [genome.decode(space, found[found[:, 0] == space.patch_sizes.index(patch)][0]) for patch in patches]


def _aggregate(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Aggregate the rows of each name over all subnets: sum of seconds, their ratios, largest memory."""
    aggregated = []
    for name in dict.fromkeys(row["what"] for row in rows):
        group = [row for row in rows if row["what"] == name]
        row: dict[str, Any] = {"net": "all", "what": name}
        if "MB" in group[0]:
            aggregated.append(row | {"MB": max(r["MB"] for r in group)})
            continue
        ours, first = [r["seconds"] for r in group], [r["seconds"] * r["first/ours"] for r in group]
        row["seconds"] = sum(ours)
        row["images/s"] = len(group) / sum(1 / r["images/s"] for r in group)
        for key in ("MFU", "GPU %"):
            if key in group[0]:
                values = [r[key] for r in group if r[key] is not None]
                row[key] = float(np.mean(values)) if values else None
        for key in ("first/ours", "first fp32/ours", "of product"):
            row[key] = np.average([r[key] for r in group], weights=ours)
        row["first, of product"] = np.average([r["first, of product"] for r in group], weights=first)
        aggregated.append({name: row[name] for name in group[0]})
    return aggregated


class _Bench:
    """Measurements on one batch."""

    def __init__(self, args: argparse.Namespace, device: torch.device, images: Tensor, labels: Tensor) -> None:
        self.args, self.device, self.images, self.labels = args, device, images, labels
        self.checks: list[dict[str, Any]] = []
        self.products = {name: large_product(device, DTYPES[name]) for name in args.dtypes}

    def supernet(self, space: SearchSpace, sharing: str) -> Supernet:
        """Build the supernet like the stages."""
        supernet = Supernet(space, sharing, class_token_only=True)  # type: ignore[arg-type]
        init_weights(supernet, 0)
        return supernet.to(self.device)

    def loss(self, logits: Tensor) -> Tensor:
        """Return the loss of BCNet, or of AutoSlim for one side."""
        return losses.cross_entropy(logits, self.labels[: logits.shape[1]], "loss_mean")

    def forwards(self, supernet: Supernet, subnet: SubnetSpec) -> dict[str, tuple[Forward, list[Tensor]]]:
        """Return the forward pass and the parameters of the first release's formulation and of ours."""
        named = plain.tensors(supernet)

        def first(images: Tensor) -> Tensor:
            return plain.logits(named, supernet.space, supernet.sides, images, subnet)

        return {
            "first": (first, list(named.values())),
            "ours": (lambda images: supernet(images, subnet), list(supernet.parameters())),
        }

    def step(self, forward: Forward, parameters: list[Tensor], dtype: str) -> Callable[[], None]:
        """Return a function that runs a forward and a backward pass."""

        def run() -> None:
            for parameter in parameters:
                parameter.grad = None
            with torch.autocast(self.device.type, torch.bfloat16, enabled=dtype == "bf16"):
                logits = forward(self.images)
            self.loss(logits).backward()

        return run

    def score(self, forward: Forward, _: list[Tensor], dtype: str) -> Callable[[], None]:
        """Return a function that runs a forward pass and counts correct predictions."""

        def run() -> None:
            with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=dtype == "bf16"):
                (forward(self.images).argmax(-1) == self.labels).sum().item()

        return run

    def steps(self, space: SearchSpace, subnet: SubnetSpec) -> list[dict[str, Any]]:
        """Time steps of BCNet and AutoSlim in fp32 and bf16."""
        rows = []
        for name, sharing in (("BCNet", "bilateral"), ("AutoSlim", "ordinal")):
            supernet = self.supernet(space, sharing)
            with torch.backends.cudnn.flags(allow_tf32=False):  # the first release embeds patches by a convolution
                found = plain.check(supernet, self.images[:4], subnet, self.loss)
            passed = found["loss"] < LOSS_TOLERANCE and found["gradient"] < GRADIENT_TOLERANCE
            self.checks.append({"net": f"patch {subnet.patch_size}", "what": name, **found, "passed": passed})
            rows += self._compare(supernet, subnet, name, 3, self.step)
        return rows

    def scoring(self, space: SearchSpace, subnet: SubnetSpec) -> list[dict[str, Any]]:
        """Time the scoring of both sides of a candidate."""
        return self._compare(self.supernet(space, "bilateral").eval(), subnet, "scoring", 1, self.score)

    def _compare(
        self, supernet: Supernet, subnet: SubnetSpec, name: str, passes: int,
        make: Callable[[Forward, list[Tensor], str], Callable[[], None]],
    ) -> list[dict[str, Any]]:  # fmt: skip
        runs = {
            f"{implementation} {dtype}": make(*forward, dtype)
            for dtype in self.args.dtypes
            for implementation, forward in self.forwards(supernet, subnet).items()
        }
        runs |= {f"product {dtype}": product for dtype, (product, _) in self.products.items()}
        times = seconds(runs, self.args.rounds, self.device)
        macs = passes * len(supernet.sides) * len(self.images) * cost.spec_macs(subnet)
        rows = []
        for dtype in self.args.dtypes:
            rate = self.products[dtype][1] / times[f"product {dtype}"]
            first, ours = times[f"first {dtype}"], times[f"ours {dtype}"]
            rows.append({
                "net": f"patch {subnet.patch_size}", "what": f"{name} {dtype}", "seconds": ours,
                "first/ours": first / ours, "first fp32/ours": times.get("first fp32", np.nan) / ours,
                "of product": macs / ours / rate, "first, of product": macs / first / rate,
                **self._use(runs[f"ours {dtype}"], ours, len(self.images), macs if passes == 3 else 0),
            })  # fmt: skip
        return rows

    def _use(self, step: Callable[[], None], time: float, images: int, macs: float) -> dict[str, Any]:
        """Return images per second; on a GPU also MFU (None for scoring or an unknown card) and utilization in %.

        ``macs`` counts forward and backward pass.
        """
        found: dict[str, Any] = {"images/s": images / time}
        if self.device.type == "cuda":
            peak = device_peak(self.device)
            found["MFU"] = macs * FLOPS_PER_MAC / 3 / time / peak if peak and macs else None
            found["GPU %"] = gpu_utilization(step, self.device)
        return found

    def memory(self, space: SearchSpace, subnet: SubnetSpec) -> list[dict[str, Any]]:
        """Measure the peak memory of a BCNet step above weights and gradients."""
        rows = []
        for dtype in self.args.dtypes:
            for implementation, forward in self.forwards(self.supernet(space, "bilateral"), subnet).items():
                peak = peak_bytes(self.step(*forward, dtype), self.device)
                rows.append(
                    {"net": f"patch {subnet.patch_size}", "what": f"{implementation} {dtype}", "MB": round(peak / 1e6)}
                )
        return rows

    def fixed(self) -> list[dict[str, Any]]:
        """Time a retraining step of DeiT-S, timm's and ours, with half of the batch."""
        images, size = self.images[: max(1, len(self.images) // 2)], self.args.image
        labels = self.labels[: len(images)]
        spec = published("deit-s").spec
        spec = SubnetSpec(size, spec.patch_size, spec.embed_dim, spec.num_classes, spec.layers)
        models = {
            "timm": timm.create_model("deit_small_patch16_224", img_size=size),
            "ours": VisionTransformer(spec, class_token_only=True),
        }
        models["ours"].load_state_dict(models["timm"].state_dict())
        for model in models.values():
            model.to(self.device).train()
        if self.args.compile or self.device.type == "cuda":
            models |= {f"{name}, compiled": torch.compile(model) for name, model in models.items()}
        rows = []
        for dtype in self.args.dtypes:

            def step(model: torch.nn.Module, dtype: str = dtype) -> None:
                model.zero_grad()
                with torch.autocast(self.device.type, torch.bfloat16, enabled=dtype == "bf16"):
                    logits = model(images)
                torch.nn.functional.cross_entropy(logits.float(), labels).backward()

            runs = {implementation: partial(step, model) for implementation, model in models.items()}
            times = seconds(runs, self.args.rounds, self.device)
            macs = cost.spec_macs(spec) * len(images)
            for name, time in times.items():
                row = {"what": f"{name} {dtype}", "seconds": time, "ms per GMAC and image": time / macs * 1e12}
                row |= {"timm/this": times[name.replace("ours", "timm")] / time}
                rows.append(row | self._use(runs[name], time, len(images), 3 * macs))
                if self.device.type == "cuda":
                    rows[-1]["MB"] = round(peak_bytes(runs[name], self.device) / 1e6)
        return rows


if __name__ == "__main__":
    sys.exit(main())
