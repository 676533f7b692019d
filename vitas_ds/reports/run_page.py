"""The page of one run."""

from __future__ import annotations

import shlex
from typing import Any

from vitas_ds.config import RANDOM_IMAGES, Config, Data
from vitas_ds.data.resized import describe
from vitas_ds.errors import UserError
from vitas_ds.reports import cost_section, finalists_section, guidance_section, ledger_table, nets, page, search_section
from vitas_ds.reports.candidates import read_candidates
from vitas_ds.reports.images import input_images
from vitas_ds.reports.search_section import values_of, with_error
from vitas_ds.reports.svg import Axis, Series, chart, short
from vitas_ds.run.files import read_json
from vitas_ds.run.manifest import read_starts
from vitas_ds.run.metrics import clock
from vitas_ds.run.run_dir import RunDir, TrainingDir, read_config
from vitas_ds.run.summary import read_summary, trains_older_network
from vitas_ds.run.thinned_metrics import read_thinned_metrics
from vitas_ds.search.latency.facts import describe_row

Rows = list[dict[str, Any]]
STEP, IMAGES, SHARE = Axis("step", whole=True), Axis("images/s"), Axis("share of the time", percent=True)
MAX_POINTS = 300  # of a scatter plot


def render(run: RunDir) -> str:
    """Return the page as text; sections without data are omitted."""
    config, starts, metrics = read_config(run), starts_of(run), read_thinned_metrics(run)
    candidates = read_candidates(run, config)
    networks = nets.compared_networks(run, config, candidates)
    return page.render(
        "run.html.j2",
        title=run.name,
        about=about(config, starts),
        headline_numbers=headline_numbers(run),
        results=headlines(run),
        supernet=[*training_charts(metrics, "train-supernet"), guidance_section.accuracy_chart(run, metrics)],
        search=search_section.section(run, config, metrics, candidates),
        check=guidance_section.check_charts(run),
        ledger=ledger_table.section(run, config.search, candidates),
        notes=guidance_section.notes(run),
        finalists=finalists_section.section(run, config),
        nets=nets.section(networks, config),
        baseline_command=nets.training_command(run, networks),
        retraining=training_charts(metrics, "retrain"),
        operators=[row for stage in (run.supernet, run.retrain) for row in _operators(stage)],
        cost=cost_section.section(run, config, metrics, starts, candidates),
        images=input_images(run),
        commands=commands(starts),
        versions=versions(starts),
    )


def starts_of(run: RunDir) -> Rows:
    """Return the starts of the run, oldest first.

    Raises:
        UserError: The manifest is missing or damaged, or lists no start.
    """
    starts = read_starts(run)
    if not starts:
        raise UserError(f"{run.manifest}: missing or without a start; give the folder of a run")
    return starts


def _operators(stage: TrainingDir) -> list[tuple[str, str, int, str, str]]:
    """Return (stage, operator, calls, time, share) of the most expensive operators that ``engine.profile`` found."""
    return [
        (stage.path.name, row["name"], row["calls"], f"{1000 * row['seconds']:.2f} ms", f"{row['share']:.0%}")
        for row in read_json(stage.operators, [])
    ]


def headlines(run: RunDir) -> list[tuple[str, str, str]]:
    """Return (stage, result, folder) of each finished stage."""
    summary = read_summary(run)
    stages = {
        "train-supernet": (_trained, run.supernet.path), "search": (_searched, run.search),
        "retrain": (_trained, run.retrain.path), "evaluate": (_evaluated, run.summary),
        "export": (_exported, run.export),
    }  # fmt: skip
    return [
        (stage, describe(summary[stage]), str(folder))
        for stage, (describe, folder) in stages.items()
        if stage in summary
    ]


def _trained(numbers: dict[str, Any]) -> str:
    parts = [f"{numbers['steps']:,} steps in {clock(numbers['seconds'])}", f"loss {numbers['loss'] or 0:.4f}"]
    if "held_out_top1" in numbers:
        parts.append(f"top-1 {numbers['held_out_top1']:.1%} on held-out images")
    return ", ".join(parts + ([f"{short(numbers['macs'])} MACs"] if "macs" in numbers else []))


def _searched(numbers: dict[str, Any]) -> str:
    best = numbers["best"]
    score = with_error(best["score"], best.get("stderr"))
    scored = f"{numbers['scored']:,} candidates scored, " if "scored" in numbers else ""  # not if the job was killed
    text = f"{scored}best {score} with {short(best['macs'])} MACs"
    trained = best.get("finalist")
    text += f", accuracy {trained['accuracy']:.1%} after {trained['steps']:,} steps" if trained else ""
    latencies = describe_row(best, numbers["latency"]) if "latency" in numbers else {}
    return "; ".join([text, *map(": ".join, latencies.items())])


def _evaluated(numbers: dict[str, Any]) -> str:
    return f"top-1 {numbers['top1']:.2%}, top-5 {numbers['top5']:.2%} of {numbers['images']:,} images"


def _exported(numbers: dict[str, Any]) -> str:
    return f"{numbers['bytes'] / 1e6:.1f} MB" if "bytes" in numbers else "done"


def about(config: Config, starts: Rows) -> str:
    """Return one or two sentences about data, recipe and machine."""
    space, first = config.space, starts[0]
    ranks = "1 rank" if first["world_size"] == 1 else f"{first['world_size']} ranks"
    images = RANDOM_IMAGES if config.data.synthetic else config.data.train
    return (
        f"{images}: {space.num_classes} classes at {space.image_size} px{_shrunk(config.data)}. "
        f"{config.supernet.sharing.capitalize()} sharing, seed {config.run.seed}. "
        f"Started {first['time'][:16].replace('T', ' ')} on {first['machine']['host']}, {ranks}."
    )


def _shrunk(data: Data) -> str:
    """Return how the training images were shrunk in advance; empty if they were not, or are not here."""
    try:
        text = "" if data.synthetic else describe(data.train)
    except UserError:
        text = ""
    return f", {text}" if text else ""


def headline_numbers(run: RunDir) -> list[tuple[str, str]]:
    """Return (name, value) of the numbers at the top of the page."""
    summary = read_summary(run)
    values: list[tuple[str, str]] = []
    if "evaluate" in summary:
        older = " (network of an earlier search)" if trains_older_network(run) else ""
        accuracies = {name: f"{summary['evaluate'][name]:.2%}" for name in ("top1", "top5")}
        values += [(f"{name[:3]}-{name[3:]} on val{older}", text) for name, text in accuracies.items()]
    if "search" in summary:
        best = summary["search"]["best"]
        values += [("MACs of the best candidate", short(best["macs"])), (_score_name(best), f"{best['score']:.1%}")]
        if "scored" in summary["search"]:
            values.append(("candidates scored", f"{summary['search']['scored']:,}"))
        if "latency" in best:
            values.append(("its latency", f"{best['latency'] * 1e3:.4g} ms"))
    seconds = sum(summary.get(stage, {}).get("seconds", 0) for stage in ("train-supernet", "retrain"))
    return [*values, ("training time", clock(seconds))] if seconds else values


def _score_name(best: dict[str, Any]) -> str:
    if "supernet_score" in best:
        return "its corrected search score"
    return "its search score" + ("" if best.get("stderr") is None else f", ±\N{NO-BREAK SPACE}{best['stderr']:.1%}")


def training_charts(metrics: Rows, stage: str) -> list[str]:
    """Return the charts of a training stage; those without data are empty."""

    def line(name: str, label: str, color: int = 1) -> list[Series]:
        return [Series(label, *values_of(metrics, stage, name), color)]

    return [
        chart("Training loss", line("loss", "loss"), STEP, Axis("loss")),
        chart("Top-1 accuracy on held-out images", line("top1", "top-1", 2), STEP, Axis("top-1", percent=True)),
        chart("Learning rate", line("lr", "learning rate"), STEP, Axis("learning rate")),
        chart("Gradient norm", line("grad_norm", "norm"), STEP, Axis("gradient norm")),
        chart("MACs of the subnets trained", _scatter(metrics, stage, "net_macs"), STEP, Axis("MACs per image")),
        chart("Images per second", line("images_per_s", "images/s", 3), STEP, IMAGES),
        chart("Time spent waiting for data", line("data_wait", "waiting", 2), STEP, SHARE),
    ]


def _scatter(metrics: Rows, stage: str, name: str) -> list[Series]:
    steps, values = values_of(metrics, stage, name)
    thin = slice(None, None, max(1, len(steps) // MAX_POINTS))
    return [Series("subnet", steps[thin], values[thin], 4, line=False, dots=True)]


def commands(starts: Rows) -> list[str]:
    """Return the last command of each stage, in order, ready to be run again."""
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


def versions(starts: Rows) -> list[tuple[str, str]]:
    """Return commit, versions and machine of the last start of each stage; one row if all stages agree."""
    by_fact: dict[str, dict[str, str]] = {}
    for start in starts:
        machine = ", ".join(str(value) for value in start["machine"].values())
        facts = {"git commit": start["git"] or "not a checkout", **start["versions"], "machine": machine}
        for name, value in facts.items():
            by_fact.setdefault(name, {})[start["stage"]] = value or "not installed"
    rows: list[tuple[str, str]] = []
    for name, by_stage in by_fact.items():
        if len(set(by_stage.values())) == 1:
            rows.append((name, next(iter(by_stage.values()))))
        else:
            rows += [(f"{name}, {stage}", value) for stage, value in by_stage.items()]
    return rows
