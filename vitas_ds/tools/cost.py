"""``vitas cost``: the cost of networks, as text or as JSON. Importing this module does not import torch."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitas_ds.arch import cost, published
from vitas_ds.arch.space import WidthTable
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.export import digests

HEADER = ("", "heads", "q/k/v", "MLP", "MACs", "params", "activations")


def run(args: argparse.Namespace) -> int:
    """Run ``vitas cost NET|SPEC.json ... [--json] [--layers] [--plot FILE]``."""
    print(run_cost([args.net, *args.more], args.json, args.layers, args.plot))
    return 0


def run_cost(nets: Sequence[str], as_json: bool = False, layers: bool = False, plot: Path | None = None) -> str:
    """Return the output of ``vitas cost``.

    Args:
        nets: Published networks or spec files.
        as_json: Return ``cost_json`` of the network; with several networks, an object of them by name.
        layers: Include the cost of each layer.
        plot: PNG file for a plot of the networks.

    Raises:
        UserError: A network is neither published nor a spec file, or the plot cannot be written.
    """
    for net in nets:
        if Path(net).is_file():
            digests.check_file(Path(net))
    specs = {net: published.find_spec(net) for net in nets}
    if plot is not None:
        from vitas_ds.tools.plot import plot_net  # imports matplotlib

        plot_net([_with_identities(net, spec) for net, spec in specs.items()], plot, [Path(net).stem for net in specs])
    if as_json:
        costs = {net: cost_json(spec, layers) for net, spec in specs.items()}
        return json.dumps(costs if len(costs) > 1 else costs.popitem()[1], indent=1)
    return "\n\n".join(f"{net}: {cost_table(spec, layers)}{_paper(net)}" for net, spec in specs.items())


def cost_json(spec: SubnetSpec, layers: bool = False) -> dict[str, Any]:
    """Return the cost of one image as a JSON object.

    Args:
        spec: The network.
        layers: Add ``layers``: for each layer its widths, MACs, parameters and activations.

    Returns:
        ``macs`` (exact), ``vitas_flops`` (the count of the first release), ``params``, and ``activations``: bytes kept
        by the forward pass of a training step in float32 (see ``cost.activations``).
    """
    table = WidthTable.from_specs([spec.canonical()])
    counts = {name: int(getattr(cost, name)(table)[0]) for name in ("macs", "vitas_flops", "params", "activations")}
    if not layers:
        return counts
    by_layer = {name: getattr(cost, f"layer_{name}")(table)[0].tolist() for name in ("macs", "params", "activations")}
    rows = [
        {"num_heads": layer.num_heads, "qkv_dim": layer.qkv_dim, "mlp_dim": layer.mlp_dim}
        | {name: values[i] for name, values in by_layer.items()}
        for i, layer in enumerate(spec.active)
    ]
    return counts | {"layers": rows}


def cost_table(spec: SubnetSpec, layers: bool = False) -> str:
    """Return the cost of one image as text; ``layers`` adds one row per layer and one for the rest."""
    costs = cost_json(spec, layers=True)
    lines = [
        f"{spec.image_size} x {spec.image_size} image, patch {spec.patch_size}, embed_dim {spec.embed_dim}, "
        f"{spec.depth} layers, {spec.num_classes} classes",
        f"  MACs         {si(costs['macs']):>9}   exact: class token and classifier counted once",
        f"  ViTAS FLOPs  {si(costs['vitas_flops']):>9}   count of the first release, in which budgets are published",
        f"  parameters   {si(costs['params']):>9}",
        f"  activations  {costs['activations'] / 2**20:>5.1f} MiB   per image of a training step, float32",
    ]
    return "\n".join(lines + _layer_lines(costs) if layers else lines)


def _layer_lines(costs: dict[str, Any]) -> list[str]:
    """Return a row per layer, or per group of equal neighbors, and one for stem, norm and classifier."""
    rows: list[tuple[str, ...]] = [HEADER]
    first = 0
    for i, layer in enumerate(costs["layers"]):
        if i + 1 < len(costs["layers"]) and costs["layers"][i + 1] == layer:
            continue
        label = f"layer {i}" if first == i else f"layers {first}-{i}, each"
        widths = (str(layer[name]) for name in ("num_heads", "qkv_dim", "mlp_dim"))
        rows.append((label, *widths, *_cells(layer)))
        first = i + 1
    rest = {k: costs[k] - sum(layer[k] for layer in costs["layers"]) for k in ("macs", "params", "activations")}
    rows.append(("stem, norm, classifier", "", "", "", *_cells(rest)))
    return ["", *aligned(rows)]


def _cells(costs: dict[str, int]) -> tuple[str, ...]:
    return si(costs["macs"]), si(costs["params"]), f"{costs['activations'] / 2**20:.2f} MiB"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines with aligned columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def si(value: float) -> str:
    """Format a number with four digits and an SI prefix: 1.265G, 6.048M, 833.5M."""
    for letter in ("", "k", "M", "G", "T"):
        if abs(value) < 999.95 or letter == "T":
            break
        value /= 1000
    digits = 0 if letter == "" else 3 if abs(value) < 9.9995 else 2 if abs(value) < 99.995 else 1
    return f"{value:.{digits}f}{letter}"


def _paper(net: str) -> str:
    """Return the FLOPs and accuracies reported for a published network."""
    if net not in published.names():
        return ""
    row = published.published(net)
    top5 = f", top-5 {row.top5} %" if row.top5 is not None else ""
    return f"\n  paper: {row.table_flops} FLOPs, top-1 {row.top1} %{top5}"


def _with_identities(net: str, spec: SubnetSpec) -> SubnetSpec:
    """Return a published network with its identity positions, which a canonical spec does not have."""
    return published.published(net, first_release=True).spec if net in published.names() else spec
