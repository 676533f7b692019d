"""Tables of the subnets trained alone, and of rules that need no supernet."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from tests.benchmarks.fidelity.truth import ALL, EQUAL, GROUPS, Truth

FEW = 4  # most choices of a gene that are rows of their own; more are binned


def summary(truth: Truth) -> str:
    """Return a list with the number of subnets, their accuracy and its noise."""
    lines = []
    for group in (EQUAL, ALL):
        at = truth.at(group)
        accuracy, macs = 100 * truth.mean_n[at], truth.macs_n[at] / 1e6
        line = f"{group}, {len(at)} subnets of {macs.min():.2f}M to {macs.max():.2f}M MACs: "
        line += f"accuracy {accuracy.min():.2f} to {accuracy.max():.2f} %, standard deviation "
        line += f"between subnets {accuracy.std(ddof=1):.2f}"
        if len(truth.seeds) > 1:
            line += f", between seeds of a subnet {100 * truth.noise(group):.2f}"
        lines.append(f"- {line}")
    for patch in np.unique(truth.patch_n):
        of = truth.mean_n[truth.at(EQUAL)][truth.patch_n[truth.at(EQUAL)] == patch]
        lines.append(f"- patch {patch}, {len(of)} subnets of equal MACs: mean accuracy {100 * of.mean():.2f} %")
    return "\n".join(lines)


def limits(truth: Truth) -> list[dict[str, Any]]:
    """Return the upper bounds of tau that the noise of the truth allows. Empty with one seed."""
    R = len(truth.seeds)
    if R == 1:
        return []
    rows = {
        "one training with another": truth.seed_tau,
        "a perfect predictor with one training": lambda group: truth.ceiling(group, 1),
        f"a perfect predictor with the mean of {R} trainings: the ceiling": truth.ceiling,
    }
    return [{"tau of": name} | {group: of(group) for group in GROUPS} for name, of in rows.items()]


def rules(truth: Truth) -> list[dict[str, Any]]:
    """Return the agreement of simple rules with the truth."""
    return [
        {"rule": name} | {f"tau, {group}": truth.tau(group, row[None]) for group in GROUPS}
        for name, row in truth.rules().items()
    ]


def genes(truth: Truth) -> dict[str, np.ndarray]:
    """Return the genes [n] whose effect is shown. Heads are those of a layer, on average."""
    return {
        "patch size": truth.patch_n, "layers": truth.depth_n, "embed_dim": truth.table.embed_dim,
        "heads": truth.heads_n,
    }  # fmt: skip


def by_gene(truth: Truth) -> list[dict[str, Any]]:
    """Return the accuracy of the subnets of equal MACs for each choice of a gene, and the share that it explains."""
    at, rows = truth.at(EQUAL), list[dict[str, Any]]()
    accuracy = 100 * truth.mean_n[at]
    for gene, values in genes(truth).items():
        labels, names = binned(values[at])
        groups = [accuracy[labels == i] for i in range(len(names))]
        for name, group in zip(names, groups, strict=True):
            if len(group):
                rows.append({
                    "gene": gene, "choice": name, "subnets": len(group), "mean accuracy, %": f"{group.mean():.2f}",
                    "range": f"{group.min():.2f} to {group.max():.2f}",
                    "explained variance": _explained(accuracy, groups) if name == names[0] else "",
                })  # fmt: skip
    return rows


def _explained(values: np.ndarray, groups: list[np.ndarray]) -> str:
    """Return the share of the variance that the groups explain, adjusted for their number (at least 0)."""
    freedom = len(values) - sum(len(group) > 0 for group in groups)
    if not freedom:
        return ""
    within = sum(((group - group.mean()) ** 2).sum() for group in groups if len(group)) / freedom
    return f"{max(0, 1 - within / values.var(ddof=1)):.0%}"


def binned(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return the label of each value and the names of the labels: choices if they are few, else thirds."""
    whole = np.issubdtype(values.dtype, np.integer)
    if whole or len(np.unique(values)) <= FEW:
        choices, labels = np.unique(values, return_inverse=True)
        return labels, [f"{choice:g}" for choice in choices]
    edges = np.quantile(values, [0, 1 / 3, 2 / 3, 1])
    labels = np.searchsorted(edges[1:3], values, side="left")
    return labels, [f"{low:.2g} to {high:.2g}" for low, high in pairwise(edges)]


def nets(truth: Truth) -> list[dict[str, Any]]:
    """Return a row for each subnet, the best of each group first."""
    order = sorted(range(len(truth.names)), key=lambda i: (truth.names[i].startswith("spread"), -truth.mean_n[i]))
    rows = []
    for i in order:
        layers = ", ".join(f"{layer.num_heads}/{layer.qkv_dim}/{layer.mlp_dim}" for layer in truth.specs[i].active)
        rows.append({
            "subnet": truth.names[i], "MACs": f"{truth.macs_n[i] / 1e6:.2f}M", "patch": truth.patch_n[i],
            "embed_dim": truth.table.embed_dim[i], "layers": truth.depth_n[i], "heads/qkv/MLP": layers,
            "accuracy, %": f"{100 * truth.mean_n[i]:.2f}",
            "each seed": ", ".join(f"{100 * value:.2f}" for value in truth.values_Rn[:, i]),
        })  # fmt: skip
    return rows
