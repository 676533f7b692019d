"""The page that compares runs: results, recipes, curves, and their fronts in one chart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from vitas_ds.config import Config, Search, format_value
from vitas_ds.reports import nets, page
from vitas_ds.reports.candidates import read_candidates
from vitas_ds.reports.run_page import IMAGES, STEP, Rows, about, starts_of
from vitas_ds.reports.search_section import MACS, SEEN, VOLUME, limits, scatter, score_axis, values_of
from vitas_ds.reports.svg import Axis, Series, chart, short
from vitas_ds.run.compatibility import PLACE, leaves
from vitas_ds.run.metrics import clock
from vitas_ds.run.run_dir import RunDir, read_config
from vitas_ds.run.summary import read_summary
from vitas_ds.run.thinned_metrics import read_thinned_metrics

Runs = Sequence[RunDir]
COLORS = (1, 2, 3, 5, 6, 7)  # 4 is the pale color of first generations
MAX_RUNS = len(COLORS)


def render(*runs: RunDir) -> str:
    """Return the page of at most ``MAX_RUNS`` runs as text; sections without data are omitted."""
    names, configs = names_of(runs), [read_config(run) for run in runs]
    metrics = [read_thinned_metrics(run) for run in runs]
    return page.render(
        "comparison.html.j2",
        title=" against ".join(names),
        names=names,
        runs=[
            {"color": color, "name": name, "about": about(config, starts_of(run))}
            for color, name, config, run in zip(COLORS, names, configs, runs, strict=False)
        ],
        results=results(runs),
        differences=differences(*configs),
        supernet=_training_charts(metrics, names, "train-supernet"),
        search=_search_charts(runs, metrics, names),
        nets=nets.section(list(_best_networks(runs, names)), configs[0]),
        retraining=_training_charts(metrics, names, "retrain"),
    )


def names_of(runs: Runs) -> tuple[str, ...]:
    """Return the names of the runs, or their paths if some names are equal."""
    names = tuple(run.name for run in runs)
    return names if len(set(names)) == len(names) else tuple(str(run.path) for run in runs)


def results(runs: Runs) -> list[tuple[str, ...]]:
    """Return (name, value of each run) of every number that at least one of them has."""
    summaries = [read_summary(run) for run in runs]
    numbers: list[tuple[str, str, Callable[[Any], str]]] = [
        ("top-1 on val", "evaluate.top1", "{:.2%}".format), ("top-5 on val", "evaluate.top5", "{:.2%}".format),
        ("search score of the best candidate", "search.best.score", "{:.2%}".format),
        ("by the supernet, before the correction", "search.best.supernet_score", "{:.2%}".format),
        ("its standard error", "search.best.stderr", "{:.2%}".format), ("its latency", "search.best.latency", _ms),
        ("its MACs", "search.best.macs", short), ("its parameters", "search.best.params", short),
        ("accuracy of the best finalist", "search.finalists.accuracy", "{:.2%}".format),
        ("candidates scored", "search.scored", "{:,}".format),
        *[("hypervolume", "search.hypervolume", short)] * _same_objectives(runs),
        ("supernet: loss", "train-supernet.loss", "{:.4f}".format),
        ("supernet: steps", "train-supernet.steps", "{:,}".format),
        ("supernet: time", "train-supernet.seconds", clock),
        ("retrained: MACs", "retrain.macs", short), ("retrained: loss", "retrain.loss", "{:.4f}".format),
        ("retrained: steps", "retrain.steps", "{:,}".format), ("retrained: time", "retrain.seconds", clock),
    ]  # fmt: skip
    rows = []
    for label, path, text in numbers:
        values = [_lookup(summary, path) for summary in summaries]
        if any(value is not None for value in values):
            rows.append((label, *("" if value is None else text(value) for value in values)))
    return rows


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.4g} ms"


def differences(*configs: Config) -> list[tuple[str, ...]]:
    """Return (field, value of each run) where they differ, except for name and folder."""
    settings = [dict(leaves(config.model_dump(mode="json"))) for config in configs]
    rows = [(name, [values[name] for values in settings]) for name in settings[0] if name not in PLACE]
    return [(name, *map(format_value, values)) for name, values in rows if any(v != values[0] for v in values)]


def _lookup(summary: dict[str, Any], path: str) -> Any:
    value: Any = summary
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _lines(metrics: Sequence[Rows], names: Sequence[str], stage: str, name: str, dots: bool = False) -> list[Series]:
    """Return the metric ``name`` of a stage, one line per run."""
    return [
        Series(label, *values_of(rows, stage, name), color, dots=dots)
        for rows, label, color in zip(metrics, names, COLORS, strict=False)
    ]


def _training_charts(metrics: Sequence[Rows], names: Sequence[str], stage: str) -> list[str]:
    return [
        chart("Training loss", _lines(metrics, names, stage, "loss"), STEP, Axis("loss")),
        chart("Learning rate", _lines(metrics, names, stage, "lr"), STEP, Axis("learning rate")),
        chart("Images per second", _lines(metrics, names, stage, "images_per_s"), STEP, IMAGES),
        chart("Gradient norm", _lines(metrics, names, stage, "grad_norm"), STEP, Axis("gradient norm")),
    ]


def _search_charts(runs: Runs, metrics: Sequence[Rows], names: Sequence[str]) -> list[str]:
    candidates = [read_candidates(run, read_config(run)) for run in runs]
    fronts = [
        scatter(f"front of {name}", found.front, color, line=True)
        for found, name, color in zip(candidates, names, COLORS, strict=False)
    ]
    budgets = [
        replace(limit, name="")  # the caption explains them
        for run, found, color in zip(runs, candidates, COLORS, strict=False)
        for limit in limits(read_config(run).search, "macs", found.front, color)
    ]
    volumes = _lines(metrics, names, "search", "hypervolume", dots=True) if _same_objectives(runs) else []
    scores = score_axis([c for found in candidates for c in found.shown])
    return [
        chart("Fronts, with standard errors; dashed: budgets", fronts, MACS, scores, budgets),
        chart("Best score so far", _lines(metrics, names, "search", "best", dots=True), SEEN, scores),
        chart("Hypervolume", volumes, SEEN, VOLUME),
    ]


def _same_objectives(runs: Runs) -> bool:
    """Return whether hypervolumes compare: they depend on space, budget, objectives and scores."""
    keys = [(config.space, *_objectives(config.search)) for config in map(read_config, runs)]
    return all(key == keys[0] for key in keys)


def _objectives(search: Search) -> tuple[Any, ...]:
    return search.algorithm, search.objectives, search.budget, search.budgets, search.check.correct


def _best_networks(runs: Runs, names: Sequence[str]) -> Iterator[nets.Network]:
    for run, name in zip(runs, names, strict=True):
        for network in nets.own_networks(run)[:1]:
            yield replace(network, name=f"{name}: {network.name}")
