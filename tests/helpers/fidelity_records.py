"""Synthetic rows for the record of tests/benchmarks/fidelity: 12 subnets of equal MACs and 4 of other MACs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.benchmarks.fidelity.record import KEYS, Record

EQUALS = [f"equal {i:02}" for i in range(12)]
SPREADS = [f"spread {i:02}" for i in range(4)]
STAMP = dict.fromkeys(KEYS, "") | {"machine": "a CPU", "git": "abc", "torch": "2", "seconds": 7.0}
MEAN = np.arange(16.0)  # the order of the truth; spread subnets are at other places


def spec_of(name: str, depth: int = 2) -> dict[str, Any]:
    """Return a network: patch 4 for the first six of equal MACs and all spread ones, else 8."""
    layer = {"num_heads": 2, "qkv_dim": 96, "mlp_dim": 64}
    patch = 8 if name.startswith("equal") and int(name[-2:]) >= 6 else 4
    return {"image_size": 32, "patch_size": patch, "embed_dim": 32, "num_classes": 10, "layers": [layer] * depth}


def net(name: str, seed: int, accuracy: float, kind: str = "net", depth: int = 2, **more: Any) -> dict[str, Any]:
    job = f"{name}{', twice as long' if kind == 'longer' else ''}, seed {seed}"
    return STAMP | {
        "job": job, "kind": kind, "what": spec_of(name, depth), "seed": seed, "macs": 4_000_000, "steps": 100,
        "accuracy": accuracy, "loss": 2 - accuracy, "training_seconds": 5.0, "digest": "d1",
    } | more  # fmt: skip


def supernet(name: str, seed: int, ways: dict[str, np.ndarray], **more: Any) -> dict[str, Any]:
    found = {way: dict(zip(EQUALS + SPREADS, row.tolist(), strict=False)) for way, row in ways.items()}
    row = {"job": f"{name}, seed {seed}", "kind": "supernet", "what": name, "seed": seed, "scores": found}
    return STAMP | row | {"training_macs": 1e12, "training_seconds": 3600.0} | more


def shuffled(seed: int, distance: float = 4.0) -> np.ndarray:
    return MEAN + np.random.default_rng(seed).normal(size=16) * distance


def add_longer(record: Record, accuracy: Callable[[int, int], float], seeds: Sequence[int] = (0, 1)) -> None:
    """Add twice the steps for every second subnet of equal MACs: ``accuracy(i, seed)``."""
    for i in range(0, 12, 2):
        for seed in seeds:
            record.add(net(EQUALS[i], seed, accuracy(i, seed), "longer", steps=200))
