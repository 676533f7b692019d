"""One self-contained HTML page: style, script and parts that need no data. Nothing is fetched from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --ground: #fbfbfa; --card: #fff; --ink: #1d1d1b; --quiet: #63635e; --rule: #e4e4df;
  --room: #efefeb; --on: #1d1d1b; --c1: #2a78d6; --c2: #e0791b; --c3: #188a5b; --c4: #a3c4ea; }
@media (prefers-color-scheme: dark) { :root { --ground: #161615; --card: #1f1f1d; --ink: #ecece7; --quiet: #a3a39b;
  --rule: #353531; --room: #2c2c29; --on: #fff; --c1: #4a90e2; --c2: #d9752a; --c3: #35a877; --c4: #35587f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 24px 16px 64px; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 26px; margin: 0 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 36px 0 10px; }
p { margin: 4px 0 12px; }
p, figcaption, .legend span { overflow-wrap: anywhere; min-width: 0; }
.quiet, figcaption, th, dt { color: var(--quiet); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(132px, 1fr)); gap: 10px; margin: 20px 0; }
.tile { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 10px 14px; }
.tile b { display: block; font-size: 24px; font-weight: 600; }
.tile span { color: var(--quiet); font-size: 13px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 460px), 1fr)); gap: 14px;
  margin-bottom: 14px; }
.charts.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); }
.whole td, .whole th:first-child { white-space: nowrap; } .whole td:nth-child(2) { white-space: normal; }
figure { margin: 0; min-width: 0; background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: 12px; }
figcaption { font-size: 14px; margin-bottom: 4px; }
svg, img { display: block; width: 100%; height: auto; overflow: visible; } img { border-radius: 4px; }
svg text { fill: var(--quiet); font-size: 12.5px; font-variant-numeric: tabular-nums; }
svg text.on { fill: var(--on); }
.grid { stroke: var(--rule); } .axis { stroke: var(--quiet); }
.c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); } .c4 { --c: var(--c4); }
.line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; }
.dot { fill: var(--c); } .hidden { fill: transparent; } .ring { fill: none; stroke: var(--c); stroke-width: 2.5; }
circle.near { fill: var(--c); stroke: var(--card); stroke-width: 2; } circle.ring.near { fill: none; stroke: var(--c); }
.room { fill: var(--room); } .bar { fill: var(--c); fill-opacity: .55; } .solid { fill: var(--c); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 13px; margin-bottom: 4px; }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 5px; margin-right: 6px; background: var(--c); }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--rule); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
@media (max-width: 560px) { .wide { font-size: 14px; } svg text { font-size: 16px; }
  svg.bars text { font-size: 12px; } }
th, td { text-align: left; padding: 6px 12px; border-top: 1px solid var(--rule); vertical-align: top;
  overflow-wrap: anywhere; min-width: 6.5em; }
tr:first-child > * { border-top: 0; } th { font-weight: 500; overflow-wrap: normal; }
pre { margin: 0; padding: 12px; overflow-x: auto; background: var(--card); border: 1px solid var(--rule);
  border-radius: 8px; font: 13px/1.6 ui-monospace, monospace; }
#tip { position: fixed; pointer-events: none; background: var(--ink); color: var(--ground); padding: 4px 8px;
  border-radius: 6px; font-size: 13px; max-width: 280px; display: none; z-index: 1; }
"""

# the point nearest to the pointer says its data-tip
SCRIPT = """
const tip = document.getElementById('tip');
let near = null;
function show(mark, x, y) {
  if (near) near.classList.remove('near');
  near = mark;
  tip.style.display = mark ? 'block' : 'none';
  if (!mark) return;
  mark.classList.add('near');
  tip.textContent = mark.dataset.tip;
  tip.style.left = Math.max(4, Math.min(x + 14, innerWidth - tip.offsetWidth - 8)) + 'px';
  tip.style.top = (y + tip.offsetHeight + 30 > innerHeight ? y - tip.offsetHeight - 12 : y + 16) + 'px';
}
for (const svg of document.querySelectorAll('svg.chart, svg.net, svg.bars')) {
  const marks = [...svg.querySelectorAll('circle[data-tip]')];
  svg.addEventListener('pointermove', event => {
    let best = event.target.closest('g[data-tip]'), least = 32;
    for (const mark of marks) {
      const box = mark.getBoundingClientRect();
      const d = Math.hypot(box.x + box.width / 2 - event.clientX, box.y + box.height / 2 - event.clientY);
      if (d < least) { least = d; best = mark; }
    }
    show(best, event.clientX, event.clientY);
  });
  svg.addEventListener('pointerleave', () => show(null));
}
"""


def page(title: str, body: Iterable[str]) -> str:
    """The whole document."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + f'\n<div id="tip" role="status"></div><script>{SCRIPT}</script></body></html>\n'
    )


def section(title: str, *parts: str) -> str:
    """A heading and what follows; nothing if nothing follows."""
    inner = "\n".join(part for part in parts if part)
    return f"<section><h2>{escape(title)}</h2>\n{inner}</section>" if inner else ""


def charts(*figures: str, small: bool = False) -> str:
    """Figures beside each other where there is room: two in a row, or three ``small`` ones."""
    inner = "".join(figures)
    return f'<div class="charts{" small" if small else ""}">{inner}</div>' if inner else ""


def tiles(values: Iterable[tuple[str, str]]) -> str:
    """Large numbers: (what, value)."""
    inner = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in values
    )
    return f'<div class="tiles">{inner}</div>' if inner else ""


def table(rows: Sequence[Sequence[Any]], header: Sequence[str] = (), whole: bool = False) -> str:
    """A table; the first cell of a row is its name. ``whole`` cells are not broken into lines; the table scrolls."""
    if not rows:
        return ""
    head = "<tr>" + "".join(f"<th>{escape(name)}</th>" for name in header) + "</tr>" if header else ""
    body = "".join(
        f"<tr><th>{escape(str(row[0]))}</th>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return f'<div class="wide{" whole" if whole else ""}"><table>{head}{body}</table></div>'


def code(lines: Iterable[str]) -> str:
    """Commands."""
    text = "\n".join(lines)
    return f"<pre>{escape(text)}</pre>" if text else ""
