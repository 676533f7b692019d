"""A search on a page: every scored net, progress, baselines, and which choices of the space survive."""

from __future__ import annotations

from typing import Any

from vitas_ds.arch.spec import spec_from_dict
from vitas_ds.config import Config
from vitas_ds.reports import html, svg
from vitas_ds.reports.svg import Axis, Series, chart, short
from vitas_ds.run.files import read_json
from vitas_ds.run.run_dir import RunDir
from vitas_ds.search.scoring.ledger import Entry, read_entries

Rows = list[dict[str, Any]]
SEEN, SCORE, MACS = Axis("nets seen"), Axis("score", percent=True), Axis("MACs")


def section(run: RunDir, config: Config, metrics: Rows) -> list[str]:
    """Charts of the search, its marginals, and a table of what it had to beat."""
    parts = [html.charts(candidates(run), progress(metrics), hypervolume(metrics))]
    small = html.charts(*marginals(run, config), small=True)
    if small:
        text = "Which choices survive: shares among the nets of the first generation, and among the best at the end."
        parts += [f'<p class="quiet">{text}</p>', small]
    return [*parts, baselines(run)]


def rows_of(metrics: Rows, stage: str, name: str) -> tuple[list[float], list[float]]:
    """Steps and values of one number, where it is there."""
    rows = [row for row in metrics if row["stage"] == stage and row.get(name) is not None]
    return [row["step"] for row in rows], [row[name] for row in rows]


def progress(metrics: Rows) -> str:
    """Best and mean score against the nets seen."""
    series = [
        Series("best so far", *rows_of(metrics, "search", "best"), 1, dots=True),
        Series("mean of the generation", *rows_of(metrics, "search", "mean"), 2, dots=True),
    ]
    return chart("Search progress", series, SEEN, SCORE)


def hypervolume(metrics: Rows) -> str:
    """What the front dominates."""
    series = [Series("hypervolume", *rows_of(metrics, "search", "hypervolume"), 3, dots=True)]
    return chart("Hypervolume of the front", series, SEEN, Axis("hypervolume"))


def own_entries(run: RunDir) -> list[Entry]:
    """The nets that the search itself scored; those scored again on more images are left out."""
    images = read_json(run.best, {})["searched_on"]
    return [entry for entry in read_entries(run.ledger) if entry.score.images == images]


def front_of(run: RunDir, entries: list[Entry]) -> list[Entry]:
    """The front, cheapest first."""
    front = [spec_from_dict(row["spec"]) for row in read_json(run.pareto, [])]
    return sorted((e for e in entries if e.spec in front), key=lambda e: e.costs["macs"])


def candidates(run: RunDir) -> str:
    """Every scored net: score against cost, with the front and the best."""
    if not run.best.exists():
        return ""
    entries = own_entries(run)
    first = min((entry.generation for entry in entries), default=1)
    best = spec_from_dict(read_json(run.best, {})["spec"])
    series = [
        dots("first generation", [e for e in entries if e.generation == first], 4),
        dots("later generations", [e for e in entries if e.generation > first], 1),
        dots("front", front_of(run, entries), 2, line=True),
        dots("chosen", [e for e in entries if e.spec == best], 3, ring=True),
    ]
    return chart("Every scored net", series, MACS, Axis("score on the search images", percent=True))


def dots(name: str, entries: list[Entry], color: int, line: bool = False, ring: bool = False) -> Series:
    """Score against MACs of some nets; pointing at one tells what it is."""
    tips = [
        f"{e.score.value:.1%}, {short(e.costs['macs'])} MACs, {short(e.costs['params'])} parameters, "
        f"{e.spec.depth} layers, embedding {e.spec.embed_dim}, patch {e.spec.patch_size}, generation {e.generation}"
        for e in entries
    ]
    macs, scores = [e.costs["macs"] for e in entries], [e.score.value for e in entries]
    return Series(name, macs, scores, color, line, dots=True, tips=tips, ring=ring)


def marginals(run: RunDir, config: Config) -> list[str]:
    """Small bars of each choice that the space leaves open: its values' shares, at first and at last."""
    if not run.best.exists():
        return []
    from vitas_ds.search.plots import survivors  # slow to import

    shares = survivors(config.space, own_entries(run), config.search.population)
    return [
        svg.bars(
            name[0].upper() + name[1:], values, [("first generation", share[0], 4), ("best at the end", share[-1], 1)]
        )
        for name, (values, share) in shares.items()
        if len(values) > 1
    ]


def baselines(run: RunDir) -> str:
    """The search beside random search and uniform nets, where they were scored."""
    path = run.search / "baselines.json"
    if not path.exists() or not run.best.exists():
        return ""
    best = read_json(run.best, {})
    entries, found = own_entries(run), read_json(path, {})
    rows = [("this search", len(entries), best["search_score"], best)]
    rows += [(name, row["scored"], row["best"]["score"], row["best"]) for name, row in found.items()]
    cells = [
        (name, f"{scored:,}", f"{score:.2%}", short(net["macs"]), short(net["params"]))
        for name, scored, score, net in rows
    ]
    text = "<p class='quiet'>What a search has to beat, inside the same budget and on the same images:</p>"
    return text + html.table(cells, ("", "nets scored", "best score", "its MACs", "its parameters"))
