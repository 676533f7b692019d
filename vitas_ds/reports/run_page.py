"""The page of one run."""

from __future__ import annotations

import json
import shlex
from html import escape
from typing import Any

from vitas_ds.config import Config
from vitas_ds.errors import UserError
from vitas_ds.reports import html, images, nets, search_section
from vitas_ds.reports.search_section import rows_of
from vitas_ds.reports.svg import Axis, Series, chart, short
from vitas_ds.run.metrics import clock, read_metrics
from vitas_ds.run.run_dir import RunDir, read_config, read_summary

Rows = list[dict[str, Any]]
STEP, IMAGES, SHARE = Axis("step"), Axis("images/s"), Axis("share of the time", percent=True)


def render(run: RunDir) -> str:
    """The page, as text. Stages that have not run leave their part out."""
    config, starts = read_config(run), read_starts(run)
    metrics = read_metrics(run)
    body = [
        f"<h1>{escape(run.name)}</h1>",
        f'<p class="quiet">{escape(about(config, starts))}</p>',
        html.tiles(tiles(run)),
        html.section("Results", html.table(headlines(run), ("stage", "found", "files"))),
        html.section("Supernet", html.charts(*training(metrics, "train-supernet"))),
        html.section("Search", *search_section.section(run, config, metrics)),
        html.section("Nets", *nets.section(run, config)),
        html.section("Retraining", html.charts(*training(metrics, "retrain"))),
        html.section("What the network sees", html.charts(*images.seen(run))),
        html.section("Reproduce", html.code(commands(starts)), *_versions(starts)),
    ]
    return html.page(f"{run.name} - vitas_ds", body)


def read_starts(run: RunDir) -> Rows:
    """The starts of the run, oldest first. Raises ``UserError`` if they are not told."""
    try:
        starts = json.loads(run.manifest.read_text())["starts"]
    except (OSError, ValueError, KeyError, TypeError):
        starts = []
    if not starts:
        raise UserError(f"{run.manifest}: is missing, or tells of no start: not a run's folder")
    return starts


def headlines(run: RunDir) -> list[tuple[str, str, str]]:
    """(stage, what it found, where its files lie) of each stage that has ended."""
    summary = read_summary(run)
    found = {
        "train-supernet": (_trained, run.supernet), "search": (_searched, run.search),
        "retrain": (_trained, run.retrain), "evaluate": (_evaluated, run.summary),
        "export": (_exported, run.export),
    }  # fmt: skip
    return [(stage, say(summary[stage]), str(where)) for stage, (say, where) in found.items() if stage in summary]


def _trained(numbers: dict[str, Any]) -> str:
    words = [f"{numbers['steps']:,} steps in {clock(numbers['seconds'])}", f"loss {numbers['loss'] or 0:.4f}"]
    return ", ".join(words + ([f"{short(numbers['macs'])} MACs"] if "macs" in numbers else []))


def _searched(numbers: dict[str, Any]) -> str:
    best = numbers["best"]
    return f"{numbers['scored']:,} nets scored, best {best['score']:.1%} with {short(best['macs'])} MACs"


def _evaluated(numbers: dict[str, Any]) -> str:
    return f"top-1 {numbers['top1']:.2%}, top-5 {numbers['top5']:.2%} of {numbers['images']:,} images"


def _exported(numbers: dict[str, Any]) -> str:
    return f"{numbers['bytes'] / 1e6:.1f} MB" if "bytes" in numbers else "done"


def about(config: Config, starts: Rows) -> str:
    """What was run, on what, in a sentence or two."""
    space, first = config.space, starts[0]
    ranks = "1 rank" if first["world_size"] == 1 else f"{first['world_size']} ranks"
    return (
        f"{config.data.train}: {space.num_classes} classes at {space.image_size} px. "
        f"{config.supernet.sharing.capitalize()} sharing, seed {config.run.seed}. "
        f"Begun {first['time'][:16].replace('T', ' ')} on {first['machine']['host']}, {ranks}."
    )


def tiles(run: RunDir) -> list[tuple[str, str]]:
    """The run's largest numbers: (what, value)."""
    summary = read_summary(run)
    values: list[tuple[str, str]] = []
    if "evaluate" in summary:
        values += [(f"{name[:3]}-{name[3:]} on val", f"{summary['evaluate'][name]:.2%}") for name in ("top1", "top5")]
    if "search" in summary:
        best = summary["search"]["best"]
        values += [("MACs of the best net", short(best["macs"])), ("its search score", f"{best['score']:.1%}")]
        values.append(("nets scored", f"{summary['search']['scored']:,}"))
    seconds = sum(summary.get(stage, {}).get("seconds", 0) for stage in ("train-supernet", "retrain"))
    return [*values, ("training time", clock(seconds))] if seconds else values


def training(metrics: Rows, stage: str) -> list[str]:
    """Charts of a training stage."""

    def line(name: str, label: str, color: int = 1) -> list[Series]:
        return [Series(label, *rows_of(metrics, stage, name), color)]

    return [
        chart("Training loss", line("loss", "loss"), STEP, Axis("loss")),
        chart("Learning rate", line("lr", "learning rate"), STEP, Axis("learning rate")),
        chart("Gradient norm", line("grad_norm", "norm"), STEP, Axis("norm")),
        chart("MACs of the nets trained", _points(metrics, stage, "net_macs"), STEP, Axis("MACs")),
        chart("Images a second", line("images_per_s", "images/s", 3), STEP, IMAGES),
        chart("Time spent waiting for data", line("data_wait", "waiting", 2), STEP, SHARE),
    ]


def _points(metrics: Rows, stage: str, name: str) -> list[Series]:
    steps, values = rows_of(metrics, stage, name)
    thin = slice(None, None, max(1, len(steps) // 300))
    return [Series("net", steps[thin], values[thin], 4, line=False, dots=True)]


def commands(starts: Rows) -> list[str]:
    """The last command of each stage, in order, as it may be typed again."""
    last: dict[str, str] = {}
    for start in starts:
        words = [w for w in start["command"] if w != "-u" and not w.startswith(("--local_rank", "--local-rank"))]
        ranks = start["world_size"]
        if ranks > 1 and words[1:3] == ["-m", "vitas_ds"]:
            local = start.get("local_world_size", ranks)
            where = ["--num_gpus", str(ranks)] if local == ranks else ["--hostfile", "HOSTS"]
            words = ["deepspeed", *where, "--module", *words[2:]]
        last[start["stage"]] = shlex.join(words)
    return list(last.values())


def _versions(starts: Rows) -> list[str]:
    """What the last start of each stage ran with; a row for each stage where they differ."""
    told = dict[str, dict[str, str]]()
    for start in starts:
        machine = ", ".join(str(value) for value in start["machine"].values())
        facts = {"git commit": start["git"] or "not a checkout", **start["versions"], "machine": machine}
        for name, value in facts.items():
            told.setdefault(name, {})[start["stage"]] = value or "not installed"
    rows = []
    for name, of in told.items():
        same = len(set(of.values())) == 1
        rows += [(name, next(iter(of.values())))] if same else [(f"{name}, {stage}", of[stage]) for stage in of]
    return ["<p></p>", html.table(rows)]
