"""Draw a network as inline SVG, from the image to the classes, with all widths to scale.

Every layer is a row, with marks between the heads in the bar of q, k and v. The drawings of a page
have one scale, so that networks compare at a glance.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.reports.svg import WIDTH

ROW, BAR_HEIGHT, BAR = 24, 18, 190  # pixels
TICK = 5  # height of the marks between heads, which leave the text readable
HEADS, LEFT = 58, 108  # of the numbers of heads, and of the bars
MIDDLE = LEFT + BAR + 16  # left end of the MLP bars
ICON, MAX_GRID = 46, 16  # picture of the patches; finer grids would be gray
TOP = 92  # of the first layer


@dataclass(frozen=True)
class Scale:
    """Widths of full bars."""

    embed_dim: int
    qkv_dim: int
    mlp_dim: int


def scale_of(specs: Iterable[SubnetSpec], least: Scale = Scale(1, 1, 1)) -> Scale:
    """Return the largest widths of some networks, at least those of ``least``."""
    specs = list(specs)
    layers = [layer for spec in specs for layer in spec.active]
    return Scale(
        max([least.embed_dim, *(spec.embed_dim for spec in specs)]),
        max([least.qkv_dim, *(layer.qkv_dim for layer in layers)]),
        max([least.mlp_dim, *(layer.mlp_dim for layer in layers)]),
    )


def draw(title: str, spec: SubnetSpec, scale: Scale) -> str:
    """Return a figure with the network.

    Args:
        title: Caption of the figure.
        spec: The network.
        scale: Widths of full bars.
    """
    height = TOP + ROW * spec.depth + 26
    rows = "".join(_layer(i, layer, scale) for i, layer in enumerate(spec.active))
    foot = f'<text x="8" y="{height - 8}">{_head(spec)}, {spec.num_classes:,} classes</text>'
    svg = (
        f'<svg class="net" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title, True)}">'
        f"{_stem(spec, scale)}{rows}{foot}</svg>"
    )
    return f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>"


def _head(spec: SubnetSpec) -> str:
    return "class token" if spec.pool == "class" else "mean of the patches"


def _stem(spec: SubnetSpec, scale: Scale) -> str:
    """Draw the patches of the image, the width of the embedding, and the headings of the layers."""
    side = spec.image_size // spec.patch_size
    text = f"{side} x {side} patches of {spec.patch_size} px"
    return (
        f'<g data-tip="{text}: {spec.num_patches:,} tokens of {spec.embed_dim} channels">{_grid(side)}'
        f'<text x="{LEFT}" y="16">{text}</text>'
        f"{_bar(LEFT, 26, spec.embed_dim, scale.embed_dim, f'embedding {spec.embed_dim}', 3)}</g>"
        f'<text x="8" y="{TOP - 8}">layer</text><text x="{HEADS}" y="{TOP - 8}">heads</text>'
        f'<text x="{LEFT}" y="{TOP - 8}">q, k, v</text>'
        f'<text x="{MIDDLE}" y="{TOP - 8}">MLP</text>'
    )


def _grid(side: int) -> str:
    cells = min(side, MAX_GRID)
    lines = "".join(
        f"M{8 + ICON * i / cells:.1f} 4v{ICON}M8 {4 + ICON * i / cells:.1f}h{ICON}" for i in range(cells + 1)
    )
    return f'<rect class="room" x="8" y="4" width="{ICON}" height="{ICON}"/><path class="cells" d="{lines}"/>'


def _layer(i: int, layer: LayerSpec, scale: Scale) -> str:
    y = TOP + ROW * i
    heads = f"{layer.num_heads} head{'s' * (layer.num_heads != 1)}"
    tip = f"layer {i + 1}: {heads} of {layer.head_dim}, q/k/v {layer.qkv_dim}, MLP {layer.mlp_dim}"
    qkv = _bar(LEFT, y, layer.qkv_dim, scale.qkv_dim, str(layer.qkv_dim), 1, layer.num_heads)
    mlp = _bar(MIDDLE, y, layer.mlp_dim, scale.mlp_dim, str(layer.mlp_dim), 2)
    numbers = f'<text x="8" y="{y + 14}">{i + 1}</text><text x="{HEADS}" y="{y + 14}">{layer.num_heads}</text>'
    return f'<g data-tip="{tip}">{numbers}{qkv}{mlp}</g>'


def _bar(x: int, y: int, value: int, full: int, text: str, color: int, parts: int = 1) -> str:
    """Draw a bar with its text, and marks between equal parts."""
    length = BAR * value / full
    cuts = "".join(f"M{x + length * i / parts:.1f} {y + BAR_HEIGHT}v-{TICK}" for i in range(1, parts))
    return (
        f'<rect class="room" x="{x}" y="{y}" width="{BAR}" height="{BAR_HEIGHT}"/>'
        f'<rect class="bar c{color}" x="{x}" y="{y}" width="{length:.1f}" height="{BAR_HEIGHT}"/>'
        + (f'<path class="cut" d="{cuts}"/>' if cuts else "")
        + f'<text class="on" x="{x + 6}" y="{y + 13.5}">{text}</text>'
    )
