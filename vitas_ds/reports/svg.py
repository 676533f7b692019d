"""Draw charts as inline SVG: lines, scatter plots, bars, and networks layer by layer.

Colors and fonts come from the CSS of the page. Marks carry a tooltip in ``data-tip``, which the script of the page
shows near the pointer; without the script the charts are complete.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from vitas_ds.arch.spec import SubnetSpec

WIDTH, HEIGHT = 520, 270
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 40
MAX_POINTS = 400  # per line; more cannot be distinguished


@dataclass(frozen=True)
class Series:
    """Points of one color, drawn as a line, as dots, or both.

    Attributes:
        name: Name in the legend; "" for none.
        xs: Horizontal values; a point with a value of None is left out.
        ys: Vertical values.
        color: Number of the CSS color ``--c1``, ``--c2``, ...
        line: Connect the points.
        dots: Mark every point.
        tips: Tooltips; None for the default ones.
        ring: Draw one large open circle around each point.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    color: int = 1
    line: bool = True
    dots: bool = False
    tips: Sequence[str] | None = None
    ring: bool = False


@dataclass(frozen=True)
class Axis:
    """Name of an axis and its number format: percent, or short with k, M or G."""

    name: str
    percent: bool = False

    def text(self, value: float) -> str:
        """Return a value as a tick label."""
        return f"{100 * value:.4g}%" if self.percent else short(value)


@dataclass(frozen=True)
class Frame:
    """The range of both axes, and its mapping to coordinates of the picture."""

    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, value: float) -> float:
        """Return the horizontal coordinate of a value."""
        return LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Return the vertical coordinate of a value."""
        return HEIGHT - BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (HEIGHT - TOP - BOTTOM)


def chart(title: str, series: Sequence[Series], x: Axis, y: Axis) -> str:
    """Return a figure with title, axes, points, and a legend if there are several series; empty without points."""
    series = [_thin(s) for s in series]
    series = [s for s in series if s.xs]
    if not series:
        return ""
    frame = _frame(series)
    body = _axes(frame, x, y) + "".join(_draw(s, frame, x, y) for s in series)
    svg = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, True)}">{body}</svg>'
    )
    return f"<figure><figcaption>{escape(title)}</figcaption>{_legend(series)}{svg}</figure>"


def _thin(s: Series) -> Series:
    """Drop missing values, and points of a line above ``MAX_POINTS``; the last point is always kept."""
    keep = [i for i, (a, b) in enumerate(zip(s.xs, s.ys, strict=True)) if a is not None and b is not None]
    if s.line and len(keep) > MAX_POINTS:
        step = -(-len(keep) // MAX_POINTS)
        keep = sorted({*keep[::step], keep[-1]})
    tips = None if s.tips is None else [s.tips[i] for i in keep]
    xs, ys = [s.xs[i] for i in keep], [s.ys[i] for i in keep]
    return Series(s.name, xs, ys, s.color, s.line, s.dots, tips, s.ring)


def _frame(series: Sequence[Series]) -> Frame:
    xs = [value for s in series for value in s.xs]
    ys = [value for s in series for value in s.ys]
    return Frame(*_span(xs, 0.02), *_span(ys, 0.06))


def _span(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = (high - low) * margin or abs(high) * 0.1 or 1.0
    return low - (pad if low != 0 else 0), high + pad


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round numbers within [low, high]."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step)
    return [round(i * step, 12) for i in range(first, math.floor(high / step) + 1)]


def _axes(frame: Frame, x: Axis, y: Axis) -> str:
    parts = []
    for value in ticks(frame.y0, frame.y1):
        at = frame.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{y.text(value)}</text>')
    for value in ticks(frame.x0, frame.x1):
        at = frame.x(value)
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{x.text(value)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x.name)}</text>')
    return "".join(parts)


def _draw(s: Series, frame: Frame, x: Axis, y: Axis) -> str:
    points = [(frame.x(a), frame.y(b)) for a, b in zip(s.xs, s.ys, strict=True)]
    tips = s.tips or [f"{s.name} {y.text(b)}, {x.name} {x.text(a)}" for a, b in zip(s.xs, s.ys, strict=True)]
    parts = []
    if s.line:
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(f'<polyline class="line c{s.color}" points="{path}"/>')
    kind = "ring" if s.ring else "dot" if s.dots or len(points) == 1 else "hidden"
    radius = 8 if s.ring else 4
    for (px, py), tip in zip(points, tips, strict=True):
        parts.append(
            f'<circle class="{kind} c{s.color}" cx="{px:.1f}" cy="{py:.1f}" r="{radius}" '
            f'data-tip="{escape(tip, True)}"/>'
        )
    return "".join(parts)


def _legend(series: Sequence[Series]) -> str:
    named = [s for s in series if s.name]
    if len(named) < 2:
        return ""
    items = "".join(f'<span><i class="key c{s.color}"></i>{escape(s.name)}</span>' for s in named)
    return f'<div class="legend">{items}</div>'


def bars(title: str, values: Sequence[object], groups: Sequence[tuple[str, Sequence[float], int]]) -> str:
    """Return a figure of shares in [0, 1]: for each of ``values`` one bar per group (name, shares, color)."""
    width, height, left, base, top = 340, 140, 46, 114, 8  # three figures fit in a row
    most = max(max(shares) for _, shares, _ in groups) or 1.0
    slot = (width - left - 4) / len(values)
    bar = min(0.8 * slot / len(groups), 26)
    parts = [
        f'<text x="{left - 7}" y="{top + 9}" text-anchor="end">{most:.0%}</text>'
        f'<line class="axis" x1="{left}" x2="{width - 4}" y1="{base}" y2="{base}"/>'
    ]
    every = -(-len(values) // 8)  # at most eight labels fit
    for i, value in enumerate(values):
        middle = left + slot * (i + 0.5)
        tip = f"{title} {value}: " + ", ".join(f"{shares[i]:.0%} {name}" for name, shares, _ in groups)
        drawn = "".join(
            f'<rect class="solid c{color}" x="{middle + bar * (k - len(groups) / 2):.1f}" width="{bar:.1f}" '
            f'y="{base - shares[i] / most * (base - top):.1f}" height="{shares[i] / most * (base - top):.1f}"/>'
            for k, (_, shares, color) in enumerate(groups)
        )
        target = f'<rect class="hidden" x="{middle - slot / 2:.1f}" y="0" width="{slot:.1f}" height="{base}"/>'
        label = f'<text x="{middle:.1f}" y="{height - 6}" text-anchor="middle">{value}</text>' if i % every == 0 else ""
        parts.append(f'<g data-tip="{escape(tip, True)}">{target}{drawn}{label}</g>')
    svg = f'<svg class="bars" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title, True)}">'
    legend = _legend([Series(name, (), (), color) for name, _, color in groups])
    return f"<figure><figcaption>{escape(title)}</figcaption>{legend}{svg}{''.join(parts)}</svg></figure>"


def short(value: float) -> str:
    """Return a number with three significant digits: 1.3G, 42k, 0.05, 2e-04."""
    if value == 0:
        return "0"
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}" if abs(value) >= 1e-4 else f"{value:.0e}"


def net(title: str, spec: SubnetSpec, qkv_dim: int, mlp_dim: int) -> str:
    """Draw a network from input to output, one row per layer, with q/k/v and MLP widths to scale.

    Args:
        title: Caption of the figure.
        spec: The network.
        qkv_dim: Width of a full q/k/v bar.
        mlp_dim: Width of a full MLP bar.
    """
    row, top, bar = 24, 44, 190
    height = top + row * len(spec.active) + 30
    head = (
        f'<text x="8" y="16">patches of {spec.patch_size} px, {spec.num_patches} of them, '
        f"embedding {spec.embed_dim}</text>"
        f'<text x="96" y="36">q, k, v (heads)</text><text x="{106 + bar}" y="36">MLP</text>'
    )
    rows = []
    for i, layer in enumerate(spec.active):
        y = top + row * i
        tip = f"layer {i + 1}: {layer.num_heads} heads of {layer.head_dim}, q/k/v {layer.qkv_dim}, MLP {layer.mlp_dim}"
        rows.append(
            f'<g data-tip="{escape(tip, True)}"><text x="8" y="{y + 15}">layer {i + 1}</text>'
            f"{_width_bar(96, y, bar, layer.qkv_dim / qkv_dim, f'{layer.qkv_dim} ({layer.num_heads})', 1)}"
            f"{_width_bar(106 + bar, y, bar, layer.mlp_dim / mlp_dim, str(layer.mlp_dim), 2)}</g>"
        )
    foot = f'<text x="8" y="{height - 10}">class token, {spec.num_classes} classes</text>'
    svg = (
        f'<svg class="net" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title, True)}">'
        f"{head}{''.join(rows)}{foot}</svg>"
    )
    return f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>"


def _width_bar(x: int, y: int, length: int, share: float, text: str, color: int) -> str:
    return (
        f'<rect class="room" x="{x}" y="{y}" width="{length}" height="18"/>'
        f'<rect class="bar c{color}" x="{x}" y="{y}" width="{length * share:.1f}" height="18"/>'
        f'<text class="on" x="{x + 5}" y="{y + 14}">{text}</text>'
    )
