"""``cost``: what nets cost, as a table for a person or JSON for a program. No torch."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitas_ds.arch import cost, published
from vitas_ds.arch.space import columns_of
from vitas_ds.arch.spec import SubnetSpec

HEADER = ("", "heads", "q/k/v", "MLP", "MACs", "params", "activations")


def run(args: argparse.Namespace) -> int:
    """``vitas cost NET|SPEC.json ... [--json] [--layers] [--plot FILE]``."""
    print(run_cost([args.net, *args.more], args.json, args.layers, args.plot))
    return 0


def run_cost(nets: Sequence[str], as_json: bool = False, layers: bool = False, plot: Path | None = None) -> str:
    """What ``cost NET|SPEC.json ...`` prints; ``plot`` also draws the nets, one above the other, into a PNG.

    JSON is the object of the one net, or an object of such objects by net.
    Raises ``UserError`` if a net is neither published nor a spec file, or the plot cannot be written.
    """
    specs = {net: published.find_spec(net) for net in nets}
    if plot is not None:
        from vitas_ds.tools.plot import plot_net  # matplotlib is imported only when it is needed

        plot_net([_drawn(net, spec) for net, spec in specs.items()], plot, [Path(net).stem for net in specs])
    if as_json:
        costs = {net: cost_json(spec, layers) for net, spec in specs.items()}
        return json.dumps(costs if len(costs) > 1 else costs.popitem()[1], indent=1)
    return "\n\n".join(f"{net}: {cost_table(spec, layers)}{_claims(net)}" for net, spec in specs.items())


def cost_json(spec: SubnetSpec, layers: bool = False) -> dict[str, Any]:
    """``macs`` (exact), ``vitas_flops`` (the first release's count), ``params``, and ``activations`` in bytes.

    All are of one image; activations are what a training step's forward pass keeps, in float32 (``cost.activations``).
    With ``layers`` also ``layers``: one object for each layer, with its widths and its share of the three.
    """
    table = columns_of([spec.canonical()])
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
    """The cost of one image as lines for a person; with ``layers`` one line for each layer, and one for the rest."""
    costs = cost_json(spec, layers=True)
    lines = [
        f"{spec.image_size} x {spec.image_size} image, patch {spec.patch_size}, width {spec.embed_dim}, "
        f"{spec.depth} layers, {spec.num_classes} classes",
        f"  MACs         {si(costs['macs']):>9}   exact: class token and classifier counted once",
        f"  ViTAS FLOPs  {si(costs['vitas_flops']):>9}   the first release's count, in which budgets are published",
        f"  parameters   {si(costs['params']):>9}",
        f"  activations  {costs['activations'] / 2**20:>5.1f} MiB   kept by a training step for each image, float32",
    ]
    return "\n".join(lines + _layer_lines(costs) if layers else lines)


def _layer_lines(costs: dict[str, Any]) -> list[str]:
    """A line for each layer; alike neighbours share one. The last is what no layer costs: stem, norm, classifier."""
    rows: list[tuple[str, ...]] = [HEADER]
    first = 0
    for i, layer in enumerate(costs["layers"]):
        if i + 1 < len(costs["layers"]) and costs["layers"][i + 1] == layer:
            continue
        label = f"layer {i}" if first == i else f"layers {first}-{i}, each"
        widths = (str(layer[name]) for name in ("num_heads", "qkv_dim", "mlp_dim"))
        rows.append((label, *widths, *_prices(layer)))
        first = i + 1
    rest = {k: costs[k] - sum(layer[k] for layer in costs["layers"]) for k in ("macs", "params", "activations")}
    rows.append(("stem, norm, classifier", "", "", "", *_prices(rest)))
    return ["", *aligned(rows)]


def _prices(costs: dict[str, int]) -> tuple[str, ...]:
    return si(costs["macs"]), si(costs["params"]), f"{costs['activations'] / 2**20:.2f} MiB"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of equally long cells: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def si(value: float) -> str:
    """Four digits and a letter: 1.265G, 6.048M, 833.5M."""
    for letter in ("", "k", "M", "G", "T"):
        if abs(value) < 999.95 or letter == "T":
            break
        value /= 1000
    digits = 0 if letter == "" else 3 if abs(value) < 9.9995 else 2 if abs(value) < 99.995 else 1
    return f"{value:.{digits}f}{letter}"


def _claims(net: str) -> str:
    """What its paper's table says of a published net."""
    if net not in published.names():
        return ""
    row = published.published(net)
    top5 = f", top-5 {row.top5} %" if row.top5 is not None else ""
    return f"\n  its paper's table says {row.table_flops} FLOPs, top-1 {row.top1} %{top5}"


def _drawn(net: str, spec: SubnetSpec) -> SubnetSpec:
    """A published net with its identity positions, which a canonical spec leaves out."""
    return published.published(net, first_release=True).spec if net in published.names() else spec
