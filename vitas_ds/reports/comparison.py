"""The page of two runs: what they differ in, their results side by side, their curves over each other."""

from __future__ import annotations

from html import escape
from typing import Any

from vitas_ds.config import Config, Search, said
from vitas_ds.reports import html, nets
from vitas_ds.reports.nets import Drawn
from vitas_ds.reports.run_page import IMAGES, STEP, about, read_starts
from vitas_ds.reports.search_section import MACS, SCORE, SEEN, dots, front_of, own_entries, rows_of
from vitas_ds.reports.svg import Axis, Series, chart, short
from vitas_ds.run.metrics import clock, read_metrics
from vitas_ds.run.run_dir import RunDir, read_config, read_summary

Two = tuple[RunDir, RunDir]
COLORS = (1, 2)


def render(first: RunDir, second: RunDir) -> str:
    """The page, as text. What neither run has is left out."""
    runs = (first, second)
    names = names_of(runs)
    configs = (read_config(first), read_config(second))
    texts = [
        f'<p class="quiet"><i class="key c{color}"></i>{escape(name)}: {escape(about(config, read_starts(run)))}</p>'
        for color, name, config, run in zip(COLORS, names, configs, runs, strict=True)
    ]
    body = [
        f"<h1>{escape(names[0])} against {escape(names[1])}</h1>", *texts,
        html.section("Results", html.table(results(runs), ("", *names))),
        html.section("What differs in the recipe", html.table(differences(*configs), ("", *names))),
        html.section("Supernet", html.charts(*_training(runs, names, "train-supernet"))),
        html.section("Search", html.charts(*_search(runs, names))),
        html.section("Nets", *_nets(runs, names, configs[0])),
        html.section("Retraining", html.charts(*_training(runs, names, "retrain"))),
    ]  # fmt: skip
    return html.page(f"{names[0]} against {names[1]} - vitas_ds", body)


def names_of(runs: Two) -> tuple[str, str]:
    """The runs' names; their paths where the names are the same."""
    a, b = runs[0].name, runs[1].name
    return (a, b) if a != b else (str(runs[0].path), str(runs[1].path))


def results(runs: Two) -> list[tuple[str, str, str]]:
    """(number, of the first run, of the second), of what at least one of them has."""
    summaries = [read_summary(run) for run in runs]
    wanted = [
        ("top-1 on val", "evaluate.top1", "{:.2%}".format), ("top-5 on val", "evaluate.top5", "{:.2%}".format),
        ("search score of the best net", "search.best.score", "{:.2%}".format),
        ("its MACs", "search.best.macs", short), ("its parameters", "search.best.params", short),
        ("nets scored", "search.scored", "{:,}".format),
        *[("hypervolume", "search.hypervolume", short)] * _one_scale(runs),
        ("supernet: loss", "train-supernet.loss", "{:.4f}".format),
        ("supernet: steps", "train-supernet.steps", "{:,}".format),
        ("supernet: time", "train-supernet.seconds", clock),
        ("retrained: MACs", "retrain.macs", short), ("retrained: loss", "retrain.loss", "{:.4f}".format),
        ("retrained: steps", "retrain.steps", "{:,}".format), ("retrained: time", "retrain.seconds", clock),
    ]  # fmt: skip
    rows = []
    for label, path, say in wanted:
        found = [_get(summary, path) for summary in summaries]
        if any(value is not None for value in found):
            a, b = ("" if value is None else say(value) for value in found)
            rows.append((label, a, b))
    return rows


def differences(first: Config, second: Config) -> list[tuple[str, str, str]]:
    """(field, of the first run, of the second) where they differ, names and folders aside."""
    one, two = (dict(_leaves(config.model_dump(mode="json"))) for config in (first, second))
    fields = [name for name in one if name not in ("run.name", "run.dir") and one[name] != two[name]]
    return [(name, said(one[name]), said(two[name])) for name in fields]


def _leaves(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(name, value)]
    return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{name}.{key}" if name else key)]


def _get(summary: dict[str, Any], path: str) -> Any:
    value: Any = summary
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _over(runs: Two, names: tuple[str, str], stage: str, value: str, dotted: bool = False) -> list[Series]:
    """A number of a stage as a line of each run."""
    return [
        Series(name, *rows_of(read_metrics(run), stage, value), color, dots=dotted)
        for run, name, color in zip(runs, names, COLORS, strict=True)
    ]


def _training(runs: Two, names: tuple[str, str], stage: str) -> list[str]:
    return [
        chart("Training loss", _over(runs, names, stage, "loss"), STEP, Axis("loss")),
        chart("Learning rate", _over(runs, names, stage, "lr"), STEP, Axis("learning rate")),
        chart("Images a second", _over(runs, names, stage, "images_per_s"), STEP, IMAGES),
        chart("Gradient norm", _over(runs, names, stage, "grad_norm"), STEP, Axis("norm")),
    ]


def _search(runs: Two, names: tuple[str, str]) -> list[str]:
    fronts = [
        dots(f"front of {name}", front_of(run, own_entries(run)), color, line=True)
        for run, name, color in zip(runs, names, COLORS, strict=True)
        if run.best.exists()
    ]
    volumes = _over(runs, names, "search", "hypervolume", dotted=True) if _one_scale(runs) else []
    return [
        chart("Fronts", fronts, MACS, SCORE),
        chart("Best score so far", _over(runs, names, "search", "best", dotted=True), SEEN, SCORE),
        chart("Hypervolume", volumes, SEEN, Axis("hypervolume")),
    ]


def _one_scale(runs: Two) -> bool:
    """Whether hypervolumes compare: they are shares of what each run's own space, budget and objectives allow."""
    one, two = (read_config(run) for run in runs)
    return (one.space, *_scale(one.search)) == (two.space, *_scale(two.search))


def _scale(search: Search) -> tuple[Any, ...]:
    return search.algorithm, search.objectives, search.budget


def _nets(runs: Two, names: tuple[str, str], config: Config) -> list[str]:
    firsts = [(name, nets.own_nets(run)[:1]) for run, name in zip(runs, names, strict=True)]
    found = [Drawn(f"{name}: {net.name}", net.spec, net.accuracy) for name, own in firsts for net in own]
    return nets.pictures(found, config) if found else []
