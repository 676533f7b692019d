"""``space``: how large a search space is, what its nets cost, and what each gene chooses from. No torch."""

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
    """``vitas space RECIPE [section.key=value ...]``."""
    print(run_space(args.recipe, args.overrides))
    return 0


def run_space(recipe: str, overrides: Sequence[str] = ()) -> str:
    """What ``space RECIPE [section.key=value ...]`` prints. Raises ``UserError`` if the recipe is wrong."""
    return describe_space(load(recipe, list(overrides)).space)


def describe_space(space: SearchSpace) -> str:
    """Number of distinct nets, smallest, middle and largest net with their cost, and the table of genes."""
    count = genome.count_nets(space)
    size = f"{count:,}" if count < 10**9 else f"{Decimal(count):.1e}"
    shape = f"{space.image_size} x {space.image_size} image, {space.num_classes} classes, layout {space.layout}"
    return "\n".join([f"{size} distinct nets ({shape})", "", *_ends(space), "", *_genes(space)])


def _ends(space: SearchSpace) -> list[str]:
    rows = [genome.smallest(space), *genome.sample(space, np.random.default_rng(0), 1001), genome.largest(space)]
    table = genome.columns(space, np.array(rows))
    lines: list[tuple[str, ...]] = [("", "MACs", "ViTAS FLOPs", "params", "layers", "patch", "width")]
    macs = cost.macs(table)
    depth = (table.heads > 0).sum(1)
    middle = int(np.argsort(macs[1:-1])[500]) + 1
    for name, i in (("smallest net", 0), ("median of 1001 random nets", middle), ("largest net", len(rows) - 1)):
        prices = (si(price(table)[i]) for price in (cost.macs, cost.vitas_flops, cost.params))
        lines.append((name, *prices, str(depth[i]), str(table.patch[i]), str(table.embed[i])))
    return aligned(lines)


def _genes(space: SearchSpace) -> list[str]:
    """One line a kind of gene: how many of it, and its choices."""
    each = 1 if space.layout == "cell" else space.depth
    operators = [str(heads) for heads in space.num_heads]
    if space.identity and space.layout == "layer":
        operators.append("identity")
    rows = [
        ("patch size", 1, [str(patch) for patch in space.patch_sizes]),
        ("width of the residual stream", 1, [str(width) for width in space.embed_widths]),
        ("heads" if space.layout == "cell" else "heads, or identity", each, operators),
        ("q/k/v width, together", each, [str(width) for width in space.qkv_widths]),
        ("MLP width", each, [str(width) for width in space.mlp_widths]),
    ]
    if space.layout == "cell":
        rows.append(("layers", 1, [str(n) for n in range(space.fewest_layers, space.depth + 1)]))
    wide = max(len(name) for name, _, _ in rows)
    lines = [f"  {name.ljust(wide)}  {genes:>5}  {' '.join(choices)}" for name, genes, choices in rows]
    return [f"  {'gene'.ljust(wide)}  count  choices", *lines]
