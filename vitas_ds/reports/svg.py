"""Charts as inline SVG text: lines, scatters, bars, a net layer by layer. Colours and fonts are the page's CSS.

Points carry ``data-tip``; the page's script shows it near the pointer. Without the script the charts are whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from vitas_ds.arch.spec import SubnetSpec

WIDTH, HEIGHT = 520, 270
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 40
MOST_POINTS = 400  # of a line; more cannot be told apart


@dataclass(frozen=True)
class Series:
    """Points of one colour (``--c1``, ``--c2``, ...): a line, dots, or both. ``tips`` replace the default tooltips."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    color: int = 1
    line: bool = True
    dots: bool = False
    tips: Sequence[str] | None = None
    ring: bool = False  # one large open circle around each point


@dataclass(frozen=True)
class Axis:
    """Name of an axis, and how its values are written: plain, ``percent``, or with a unit's letter (k, M, G)."""

    name: str
    percent: bool = False

    def text(self, value: float) -> str:
        """A value for a person."""
        return f"{100 * value:.4g}%" if self.percent else short(value)


@dataclass(frozen=True)
class Frame:
    """Where a value lies in the picture."""

    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, value: float) -> float:
        """Horizontal place of a value."""
        return LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Vertical place of a value."""
        return HEIGHT - BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (HEIGHT - TOP - BOTTOM)


def chart(title: str, series: Sequence[Series], x: Axis, y: Axis) -> str:
    """A figure: title, legend where there is more than one series, axes, points. Values that are None are left out."""
    series = [_whole(s) for s in series]
    series = [s for s in series if s.xs]
    if not series:
        return ""
    frame = _frame(series)
    body = _axes(frame, x, y) + "".join(_draw(s, frame, x, y) for s in series)
    svg = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, True)}">{body}</svg>'
    )
    return f"<figure><figcaption>{escape(title)}</figcaption>{_legend(series)}{svg}</figure>"


def _whole(s: Series) -> Series:
    """The series without missing values, and with no more points than can be seen (the last is always kept)."""
    keep = [i for i, (a, b) in enumerate(zip(s.xs, s.ys, strict=True)) if a is not None and b is not None]
    if s.line and len(keep) > MOST_POINTS:
        step = -(-len(keep) // MOST_POINTS)
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
    room = (high - low) * margin or abs(high) * 0.1 or 1.0
    return low - (room if low != 0 else 0), high + room


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers within [low, high]."""
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
        way = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(f'<polyline class="line c{s.color}" points="{way}"/>')
    kind = "ring" if s.ring else "dot" if s.dots or len(points) == 1 else "hidden"
    radius = 8 if s.ring else 4
    for (px, py), tip in zip(points, tips, strict=True):
        parts.append(
            f'<circle class="{kind} c{s.color}" cx="{px:.1f}" cy="{py:.1f}" r="{radius}" '
            f'data-tip="{escape(tip, True)}"/>'
        )
    return "".join(parts)


def _legend(series: Sequence[Series]) -> str:
    if len(series) < 2:
        return ""
    items = "".join(f'<span><i class="key c{s.color}"></i>{escape(s.name)}</span>' for s in series)
    return f'<div class="legend">{items}</div>'


def bars(title: str, values: Sequence[object], groups: Sequence[tuple[str, Sequence[float], int]]) -> str:
    """A figure of shares in [0, 1]: for each of ``values`` a bar of each group (name, shares, colour)."""
    width, height, left, base, top = 340, 140, 46, 114, 8  # three figures in a row
    most = max(max(shares) for _, shares, _ in groups) or 1.0
    slot = (width - left - 4) / len(values)
    wide = min(0.8 * slot / len(groups), 26)
    parts = [
        f'<text x="{left - 7}" y="{top + 9}" text-anchor="end">{most:.0%}</text>'
        f'<line class="axis" x1="{left}" x2="{width - 4}" y1="{base}" y2="{base}"/>'
    ]
    every = -(-len(values) // 8)  # labels have room for eight
    for i, value in enumerate(values):
        middle = left + slot * (i + 0.5)
        tip = f"{title} {value}: " + ", ".join(f"{shares[i]:.0%} {name}" for name, shares, _ in groups)
        drawn = "".join(
            f'<rect class="solid c{color}" x="{middle + wide * (k - len(groups) / 2):.1f}" width="{wide:.1f}" '
            f'y="{base - shares[i] / most * (base - top):.1f}" height="{shares[i] / most * (base - top):.1f}"/>'
            for k, (_, shares, color) in enumerate(groups)
        )
        room = f'<rect class="hidden" x="{middle - slot / 2:.1f}" y="0" width="{slot:.1f}" height="{base}"/>'
        label = f'<text x="{middle:.1f}" y="{height - 6}" text-anchor="middle">{value}</text>' if i % every == 0 else ""
        parts.append(f'<g data-tip="{escape(tip, True)}">{room}{drawn}{label}</g>')
    svg = f'<svg class="bars" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title, True)}">'
    legend = _legend([Series(name, (), (), color) for name, _, color in groups])
    return f"<figure><figcaption>{escape(title)}</figcaption>{legend}{svg}{''.join(parts)}</svg></figure>"


def short(value: float) -> str:
    """A number for a person: 1.3G, 42k, 0.05, 2e-04."""
    if value == 0:
        return "0"
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}" if abs(value) >= 1e-4 else f"{value:.0e}"


def net(title: str, spec: SubnetSpec, qkv_dim: int, mlp_dim: int) -> str:
    """A net drawn from the input down, widths to scale: a row a layer, q/k/v and MLP beside each other.

    ``qkv_dim`` and ``mlp_dim`` are the widths that fill a whole bar: the largest of the space.
    """
    row, top, half = 24, 44, 190
    height = top + row * len(spec.active) + 30
    head = (
        f'<text x="8" y="16">patches of {spec.patch_size} px, {spec.num_patches} of them, '
        f"embedding {spec.embed_dim}</text>"
        f'<text x="96" y="36">q, k, v (heads)</text><text x="{106 + half}" y="36">MLP</text>'
    )
    rows = []
    for i, layer in enumerate(spec.active):
        y = top + row * i
        a, m = half * layer.qkv_dim / qkv_dim, half * layer.mlp_dim / mlp_dim
        tip = f"layer {i + 1}: {layer.num_heads} heads of {layer.head_dim}, q/k/v {layer.qkv_dim}, MLP {layer.mlp_dim}"
        rows.append(
            f'<g data-tip="{escape(tip, True)}"><text x="8" y="{y + 15}">layer {i + 1}</text>'
            f'<rect class="room" x="96" y="{y}" width="{half}" height="18"/>'
            f'<rect class="bar c1" x="96" y="{y}" width="{a:.1f}" height="18"/>'
            f'<text class="on" x="101" y="{y + 14}">{layer.qkv_dim} ({layer.num_heads})</text>'
            f'<rect class="room" x="{106 + half}" y="{y}" width="{half}" height="18"/>'
            f'<rect class="bar c2" x="{106 + half}" y="{y}" width="{m:.1f}" height="18"/>'
            f'<text class="on" x="{111 + half}" y="{y + 14}">{layer.mlp_dim}</text></g>'
        )
    foot = f'<text x="8" y="{height - 10}">class token, {spec.num_classes} classes</text>'
    svg = (
        f'<svg class="net" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title, True)}">'
        f"{head}{''.join(rows)}{foot}</svg>"
    )
    return f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>"
