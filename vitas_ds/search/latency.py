"""Latency of nets: measured on the device at hand, kept on disk, and predicted from a few dozen measurements.

Measured are whole plain networks, as they would be deployed. The predictor is additive: a net's latency is that of its
stem and head plus that of each layer, each a sum of non-negative prices of what it computes.
"""
# K nets, L positions, P priced quantities

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from scipy.stats import spearmanr

from vitas_ds.distributed import from_main
from vitas_ds.errors import UserError
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.precision import autocast
from vitas_ds.run_dir import to_json
from vitas_ds.search.budget import PICO
from vitas_ds.search.ledger import name_of
from vitas_ds.space import Columns, columns_of
from vitas_ds.spec import SubnetSpec


def measure(
    spec: SubnetSpec,
    device: torch.device,
    batch_size: int,
    precision: str,
    repeats: int = 30,
    warmup: int = 5,
    patience: float = 4.0,
) -> float:
    """Seconds of a forward pass of a batch: the median of the repeats that ``typical`` keeps, each synchronised.

    A slow net is repeated until ``patience`` seconds have passed, three times at least.
    """
    network = VisionTransformer(spec).to(device).eval()
    images = torch.zeros(batch_size, 3, spec.image_size, spec.image_size, device=device)
    seconds: list[float] = []
    with torch.inference_mode(), autocast(precision, device):
        while len(seconds) < warmup + repeats and (len(seconds) < 5 or sum(seconds) < patience):
            _synchronise(device)
            begun = time.perf_counter()
            network(images)
            _synchronise(device)
            seconds.append(time.perf_counter() - begun)
    return float(np.median(typical(np.array(seconds[min(warmup, len(seconds) - 3) :]))))


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def typical(seconds: np.ndarray) -> np.ndarray:
    """The measurements within three (robust) standard deviations of their median; a busy machine's outliers go."""
    away = abs(seconds - np.median(seconds))
    return seconds[away <= 3 * 1.4826 * np.median(away)]


def setting(device: torch.device, batch_size: int, precision: str) -> dict[str, Any]:
    """What a latency depends on beside the net: the cache holds for this and nothing else."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else _processor(),
        "threads": None if cuda else torch.get_num_threads(),
        "torch": torch.__version__,
        "driver": f"cuda {torch.version.cuda}, cudnn {torch.backends.cudnn.version()}" if cuda else None,
        "batch_size": batch_size,
        "precision": precision,
    }


def _processor() -> str:
    """The CPU's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


class Latencies:
    """Measured latencies, each on disk as soon as it is known. All ranks call it; rank 0 measures for all."""

    def __init__(self, path: Path, where: dict[str, Any], measure: Callable[[SubnetSpec], float]) -> None:
        """``where`` is the ``setting`` under which ``measure`` gives seconds; the file may hold others' lines too."""
        self.path, self.where, self.measure = path, where, measure
        self.known: dict[str, float] = from_main(self._read)

    def __call__(self, specs: list[SubnetSpec]) -> np.ndarray:
        """Seconds [K], measured where they are not known."""
        names = [name_of(spec) for spec in specs]
        self.known = from_main(lambda: self._measured(specs, names))
        return np.array([self.known[name] for name in names])

    def _measured(self, specs: list[SubnetSpec], names: list[str]) -> dict[str, float]:
        for spec, name in zip(specs, names, strict=True):
            if name not in self.known:
                self.known[name] = self.measure(spec)
                self._append({"spec": spec.to_dict(), "seconds": self.known[name], "setting": self.where})
        return self.known

    def _append(self, line: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = not self.path.exists() or self.path.read_bytes()[-1:] in (b"", b"\n")
        with self.path.open("a") as file:
            file.write(("" if whole else "\n") + to_json(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> dict[str, float]:
        """The lines of this setting; one that is torn or not ours is passed over, for it can be measured again."""
        found = {}
        for text in self.path.read_bytes().splitlines() if self.path.exists() else ():
            try:
                line = json.loads(text)
                if line["setting"] == self.where:
                    found[json.dumps(line["spec"], sort_keys=True)] = float(line["seconds"])
            except (ValueError, KeyError, TypeError):
                continue
        return found


def stem_quantities(table: Columns) -> np.ndarray:
    """[K, 3] what is priced outside the layers: the net itself, patch embedding, classifier."""
    n = (table.image_size // table.patch) ** 2
    embedding = 3 * n * table.patch**2 * table.embed
    return np.stack([np.ones(len(n)), embedding, table.embed * table.num_classes], 1).astype(float)


def layer_quantities(table: Columns) -> np.ndarray:
    """[K, L, 7] what is priced of each layer: itself, its matrix products, softmax, and element-wise work."""
    N = (table.image_size // table.patch)[:, None] ** 2 + 1
    D, a = table.embed[:, None], table.qkv // 3
    parts = [np.ones_like(a), N * D * (table.qkv + a), 2 * N * D * table.mlp, 2 * N * N * a]
    parts += [table.heads * N * N, N * D * np.ones_like(a), N * (table.qkv + table.mlp)]
    return np.stack(parts, 2) * (table.heads > 0)[..., None].astype(float)


@dataclass(frozen=True)
class Predictor:
    """Latency as a sum over layers. ``error`` (mean relative) and ``correlation`` (of ranks) are on held-out nets."""

    prices: np.ndarray  # [P] seconds of a unit of each quantity
    error: float
    correlation: float

    def layers(self, table: Columns) -> np.ndarray:
        """[K, L] seconds of each position, 0 at an identity."""
        return layer_quantities(table) @ self.prices[3:]

    def __call__(self, table: Columns) -> np.ndarray:
        """[K] seconds of whole nets."""
        return stem_quantities(table) @ self.prices[:3] + self.layers(table).sum(1)

    def picoseconds(self, table: Columns) -> np.ndarray:
        """int64 [K]: the same as a cost of a budget, made of whole prices, so that the feasible nets are exact."""

        def seconds(heads: int, qkv: int, mlp: int) -> np.ndarray:
            columns = [np.full((len(table.patch), 1), value) for value in (heads, qkv, mlp)]
            return self(replace(table, heads=columns[0], qkv=columns[1], mlp=columns[2]))

        stem, one = seconds(0, 0, 0), seconds(1, 0, 0)
        head = seconds(2, 0, 0) - one
        parts = stem, one - stem - head, head, seconds(1, 3, 0) - one, seconds(1, 0, 1) - one
        base, layer, head, attn, mlp = (np.rint(part * PICO).astype(np.int64) for part in parts)
        widths = attn * (table.qkv.sum(1) // 3) + np.maximum(mlp, 1) * table.mlp.sum(1)
        return base + layer * (table.heads > 0).sum(1) + head * table.heads.sum(1) + widths


def fit(specs: list[SubnetSpec], seconds: np.ndarray, seed: int = 0, held_out: float = 0.25) -> Predictor:
    """The non-negative prices with the least relative error on most of the nets; the rest tells how good they are.

    Raises:
        UserError: fewer than 12 nets.
    """
    if len(specs) < 12:
        raise UserError(f"a latency predictor needs 12 measured nets or more (given: {len(specs)})")
    table, seconds = columns_of(specs), np.asarray(seconds, float)
    known = np.concatenate([stem_quantities(table), layer_quantities(table).sum(1)], 1)
    order = np.random.default_rng(seed).permutation(len(specs))
    test, train = np.split(order, [max(round(held_out * len(specs)), 3)])
    scale = known[train].max(0)
    relative = known[train] / scale / seconds[train, None]
    prices = nnls(relative, np.ones(len(train)))[0] / scale
    told = known[test] @ prices
    error = float((abs(told - seconds[test]) / seconds[test]).mean())
    return Predictor(prices, error, float(spearmanr(told, seconds[test]).statistic))
