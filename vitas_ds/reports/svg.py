"""Draw charts as inline SVG: lines, scatter plots and bars. ``net_drawing.py`` draws networks.

Colors and fonts come from the CSS of the page. Marks carry a tooltip in ``data-tip``, which the script of the page
shows near the pointer; without the script the charts are complete.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

WIDTH, HEIGHT = 520, 270
LEFT, RIGHT, TOP, BOTTOM = 68, 14, 12, 40
MAX_POINTS = 400  # per line; more cannot be distinguished
MANY = 300  # smaller dots in scatter plots of more


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
        errors: Standard error of each vertical value, drawn as a bar; None where it is unknown.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    color: int = 1
    line: bool = True
    dots: bool = False
    tips: Sequence[str] | None = None
    ring: bool = False
    errors: Sequence[float | None] | None = None


@dataclass(frozen=True)
class Limit:
    """A vertical dashed line: one end of a budget.

    Attributes:
        value: Horizontal value.
        tip: Tooltip.
        color: Number of the CSS color.
        name: Name in the legend; "" for none.
    """

    value: float
    tip: str
    color: int = 6
    name: str = ""


@dataclass(frozen=True)
class Axis:
    """Name of an axis and its number format: percent, or short with k, M or G; ``whole``: it counts things."""

    name: str
    percent: bool = False
    whole: bool = False

    def text(self, value: float, digits: int = 3) -> str:
        """Return a value, as in a tooltip."""
        return f"{100 * value:.{digits + 1}g}%" if self.percent else short(value, digits)

    def labels(self, values: Sequence[float]) -> list[str]:
        """Return tick labels with as many digits as make them different."""
        for digits in range(3, 8):
            texts = [self.text(value, digits) for value in values]
            if len(set(texts)) == len(texts):
                break
        return texts


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


def chart(title: str, series: Sequence[Series], x: Axis, y: Axis, limits: Sequence[Limit] = ()) -> str:
    """Return a figure with title, axes, points, and a legend if there are several series; empty without points."""
    series = [_thin(s) for s in series]
    series = [s for s in series if s.xs]
    if not series:
        return ""
    frame = _frame(series, limits, x.whole)
    body = _axes(frame, x, y) + "".join(_draw_limit(limit, frame) for limit in limits)
    body += "".join(_draw(s, frame, x, y) for s in series)
    svg = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, True)}">{body}</svg>'
    )
    legend = _legend([*series, *(Series(limit.name, (), (), limit.color) for limit in limits)])
    return f"<figure><figcaption>{escape(title)}</figcaption>{legend}{svg}</figure>"


def _thin(s: Series) -> Series:
    """Drop missing values, and points of a line above ``MAX_POINTS``; the last point is always kept."""
    keep = [i for i, (a, b) in enumerate(zip(s.xs, s.ys, strict=True)) if a is not None and b is not None]
    if s.line and len(keep) > MAX_POINTS:
        step = -(-len(keep) // MAX_POINTS)
        keep = sorted({*keep[::step], keep[-1]})
    tips = None if s.tips is None else [s.tips[i] for i in keep]
    errors = None if s.errors is None else [s.errors[i] for i in keep]
    return replace(s, xs=[s.xs[i] for i in keep], ys=[s.ys[i] for i in keep], tips=tips, errors=errors)


def _frame(series: Sequence[Series], limits: Sequence[Limit], whole: bool) -> Frame:
    xs = [value for s in series for value in s.xs] + [limit.value for limit in limits]
    ys = [value for s in series for value in s.ys]
    for s in series:
        ys += [y + sign * (e or 0.0) for y, e in zip(s.ys, s.errors or (), strict=False) for sign in (-1, 1)]
    across = (xs[0] - 1, xs[0] + 1) if whole and len(set(xs)) == 1 else _span(xs, 0.02)
    return Frame(*across, *_span(ys, 0.06))


def _span(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = (high - low) * margin or abs(high) * 0.1 or 1.0
    return low - (pad if low != 0 else 0), high + pad


def ticks(low: float, high: float, count: int = 5, whole: bool = False) -> list[float]:
    """Return about ``count`` round numbers, or ``whole`` numbers, within [low, high]."""
    raw = max((high - low) / count, 1.0 if whole else 0.0)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999 and not (whole and m * power % 1))
    first = math.ceil(low / step)
    return [round(i * step, 12) for i in range(first, math.floor(high / step) + 1)]


def _axes(frame: Frame, x: Axis, y: Axis) -> str:
    parts = []
    marks = ticks(frame.y0, frame.y1, whole=y.whole)
    for value, text in zip(marks, y.labels(marks), strict=True):
        at = frame.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{text}</text>')
    marks = ticks(frame.x0, frame.x1, whole=x.whole)
    for value, text in zip(marks, x.labels(marks), strict=True):
        at = frame.x(value)
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{text}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x.name)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{escape(y.name)}</text>')
    return "".join(parts)


def _draw_limit(limit: Limit, frame: Frame) -> str:
    """Draw the line, and two invisible marks for its tooltip."""
    x, tip = frame.x(limit.value), escape(limit.tip, True)
    line = f'<line class="limit c{limit.color}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
    marks = (
        f'<circle class="hidden c{limit.color}" cx="{x:.1f}" cy="{y}" r="4" data-tip="{tip}"/>'
        for y in (TOP, HEIGHT - BOTTOM)
    )
    return line + "".join(marks)


def _draw_errors(s: Series, frame: Frame) -> str:
    bars = (
        f"M{frame.x(a):.1f} {frame.y(b - e):.1f}V{frame.y(b + e):.1f}"
        for a, b, e in zip(s.xs, s.ys, s.errors or (), strict=False) if e
    )  # fmt: skip
    path = "".join(bars)
    return f'<path class="error c{s.color}" d="{path}"/>' if path else ""


def _draw(s: Series, frame: Frame, x: Axis, y: Axis) -> str:
    points = [(frame.x(a), frame.y(b)) for a, b in zip(s.xs, s.ys, strict=True)]
    tips = s.tips or [f"{s.name} {y.text(b)}, {x.name} {x.text(a)}" for a, b in zip(s.xs, s.ys, strict=True)]
    parts = [_draw_errors(s, frame)]
    if s.line:
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(f'<polyline class="line c{s.color}" points="{path}"/>')
    kind = "ring" if s.ring else "dot" if s.dots or len(points) == 1 else "hidden"
    radius = 8 if s.ring else 4 if s.line or len(points) <= MANY else 2.5
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
        f'<text x="{left - 7}" y="{base}" text-anchor="end">0</text>'
        f'<text transform="translate(12 {(top + base) / 2}) rotate(-90)" text-anchor="middle">share</text>'
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


def short(value: float, digits: int = 3) -> str:
    """Return a number with three significant digits: 1.3G, 42k, 0.05, 2e-04."""
    if value == 0:
        return "0"
    for unit, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit * (1 - 10**-digits / 2):  # 999.7M is 1G
            return f"{value / unit:.{digits}g}{letter}"
    return f"{value:.{digits}g}" if abs(value) >= 1e-4 else f"{value:.{digits - 3}e}"
