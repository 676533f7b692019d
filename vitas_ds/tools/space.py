"""``vitas space``: size, costs and genes of a search space. Importing this module does not import torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from decimal import Decimal

import numpy as np

from vitas_ds.arch import cost, genome
from vitas_ds.arch.space import SearchSpace
from vitas_ds.recipe import load
from vitas_ds.tools.cost import aligned, si


def run(args: argparse.Namespace) -> int:
    """Run ``vitas space RECIPE [section.key=value ...]``."""
    print(run_space(args.recipe, args.overrides))
    return 0


def run_space(recipe: str, overrides: Sequence[str] = ()) -> str:
    """Return the output of ``vitas space``. Raises ``UserError`` if the recipe is not valid."""
    return describe_space(load(recipe, list(overrides)).space)


def describe_space(space: SearchSpace) -> str:
    """Return the number of subnets, the cost of the smallest, a median and the largest subnet, and the genes."""
    count = genome.count_subnets(space)
    size = f"{count:,}" if count < 10**9 else f"{Decimal(count):.1e}"
    shape = f"{space.image_size} x {space.image_size} image, {space.num_classes} classes, layout {space.layout}"
    return "\n".join([f"{size} distinct subnets ({shape})", "", *_costs(space), "", *_genes(space)])


def _costs(space: SearchSpace) -> list[str]:
    rows = [genome.smallest(space), *genome.sample(space, np.random.default_rng(0), 1001), genome.largest(space)]
    table = genome.width_table(space, np.array(rows))
    lines: list[tuple[str, ...]] = [("", "MACs", "ViTAS FLOPs", "params", "layers", "patch", "embed_dim")]
    macs = cost.macs(table)
    depth = (table.num_heads > 0).sum(1)
    median = int(np.argsort(macs[1:-1])[500]) + 1
    for name, i in (
        ("smallest subnet", 0),
        ("median of 1001 random subnets", median),
        ("largest subnet", len(rows) - 1),
    ):
        costs = (si(count(table)[i]) for count in (cost.macs, cost.vitas_flops, cost.params))
        lines.append((name, *costs, str(depth[i]), str(table.patch_size[i]), str(table.embed_dim[i])))
    return aligned(lines)


def _genes(space: SearchSpace) -> list[str]:
    """Return one line per kind of gene: its count and its choices."""
    each = 1 if space.layout == "cell" else space.depth
    operators = [str(heads) for heads in space.num_heads]
    if space.identity and space.layout == "layer":
        operators.append("identity")
    rows = [
        ("patch size", 1, [str(patch) for patch in space.patch_sizes]),
        ("embed_dim", 1, list(map(str, space.embed_widths))),
        ("heads" if space.layout == "cell" else "heads, or identity", each, operators),
        (
            ("channels kept of a head", each, [str(x // space.num_heads[0]) for x in space.attn_table[0].tolist()])
            if space.elastic.on
            else ("q/k/v width", each, list(map(str, space.qkv_widths)))
        ),
        ("MLP width", each, list(map(str, space.mlp_widths))),
    ]
    if space.layout == "cell" or space.elastic.on:
        rows.append(("layers", 1, [str(n) for n in range(space.min_layers, space.depth + 1)]))
    width = max(len(name) for name, _, _ in rows)
    lines = [f"  {name.ljust(width)}  {genes:>5}  {' '.join(choices)}" for name, genes, choices in rows]
    return [f"  {'gene'.ljust(width)}  count  choices", *lines]
