"""Stage report: one HTML page about a run, and its results in a few lines. It only reads what the stages left."""

from __future__ import annotations

import json
import shlex
from html import escape
from typing import Any

from vitas_ds import charts, cost, distributed, page
from vitas_ds.charts import Axis, Series, chart, short
from vitas_ds.config import Config
from vitas_ds.run_dir import RunDir, read_config, read_summary, run_of, write_text
from vitas_ds.search.ledger import Entry, read_entries
from vitas_ds.space import columns_of
from vitas_ds.spec import SubnetSpec, spec_from_dict
from vitas_ds.tracking import clock, read_metrics

Rows = list[dict[str, Any]]
STEP, IMAGES, SHARE = Axis("step"), Axis("images/s"), Axis("share of the time", percent=True)


def run(config: Config) -> None:
    """Write ``report/index.html`` of the run, and print its results.

    Raises:
        UserError: there is no such run.
    """
    ranks = distributed.init("cpu", config.run.timeout)
    if ranks.is_main:
        folder = run_of(config)
        write_text(folder.report / "index.html", html(folder))
        print_summary(folder)
    distributed.barrier()


def print_summary(run: RunDir) -> None:
    """What each stage found, and where its files lie."""
    lines = [*headlines(run), ("report", "", str(run.report / "index.html"))]
    widths = [max(len(line[i]) for line in lines) for i in (0, 1)]
    for stage, found, where in lines:
        print(f"{stage:<{widths[0]}}  {found:<{widths[1]}}  {where}")


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


def html(run: RunDir) -> str:
    """The page, as text. Stages that have not run leave their part out."""
    config, manifest = read_config(run), json.loads(run.manifest.read_text())
    metrics = read_metrics(run)
    body = [
        f"<h1>{escape(run.name)}</h1>",
        f'<p class="quiet">{escape(_about(config, manifest["starts"]))}</p>',
        page.tiles(_tiles(run)),
        page.section("Results", page.table(headlines(run), ("stage", "found", "files"))),
        page.section("Supernet", page.charts(*_training(metrics, "train-supernet"))),
        page.section("Search", page.charts(*_search(run, metrics))),
        page.section("The net", *_net(run, config)),
        page.section("Retraining", page.charts(*_training(metrics, "retrain"))),
        page.section("Reproduce", page.code(commands(manifest["starts"])), *_versions(manifest["starts"])),
    ]
    return page.page(f"{run.name} - vitas_ds", body)


def _about(config: Config, starts: Rows) -> str:
    space, first = config.space, starts[0]
    ranks = "1 rank" if first["world_size"] == 1 else f"{first['world_size']} ranks"
    return (
        f"{config.data.train}: {space.num_classes} classes at {space.image_size} px. "
        f"{config.supernet.sharing.capitalize()} sharing, seed {config.run.seed}. "
        f"Begun {first['time'][:16].replace('T', ' ')} on {first['machine']['host']}, {ranks}."
    )


def _tiles(run: RunDir) -> list[tuple[str, str]]:
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


def _training(metrics: Rows, stage: str) -> list[str]:
    rows = [row for row in metrics if row["stage"] == stage]
    steps = [row["step"] for row in rows]

    def line(name: str, label: str, color: int = 1) -> Series:
        return Series(label, steps, [row.get(name) for row in rows], color)  # type: ignore[misc]

    return [
        chart("Training loss", [line("loss", "loss")], STEP, Axis("loss")),
        chart("Learning rate", [line("lr", "learning rate")], STEP, Axis("learning rate")),
        chart("Images a second", [line("images_per_s", "images/s", 3)], STEP, IMAGES),
        chart("Time spent waiting for data", [line("data_wait", "waiting", 2)], STEP, SHARE),
    ]


def _search(run: RunDir, metrics: Rows) -> list[str]:
    rows = [row for row in metrics if row["stage"] == "search"]
    seen, score = Axis("nets seen"), Axis("score", percent=True)
    steps = [row["step"] for row in rows]
    progress = [
        Series("best so far", steps, [row.get("best") for row in rows], 1, dots=True),  # type: ignore[misc]
        Series("mean of the generation", steps, [row.get("mean") for row in rows], 2, dots=True),  # type: ignore[misc]
    ]
    return [_candidates(run), chart("Search progress", progress, seen, score)]


def _candidates(run: RunDir) -> str:
    """Every scored net: score against cost, with the front and the best."""
    if not run.best.exists():
        return ""
    best = json.loads(run.best.read_text())
    front = [spec_from_dict(row["spec"]) for row in json.loads(run.pareto.read_text())]
    entries = [e for e in read_entries(run.ledger) if e.score.images == best["searched_on"]]
    first = min((entry.generation for entry in entries), default=1)
    chosen = [e for e in entries if e.spec == spec_from_dict(best["spec"])]
    series = [
        _dots("first generation", [e for e in entries if e.generation == first], 4),
        _dots("later generations", [e for e in entries if e.generation > first], 1),
        _dots("front", sorted((e for e in entries if e.spec in front), key=lambda e: e.costs["macs"]), 2, line=True),
        _dots("chosen", chosen, 3, ring=True),
    ]
    return chart("Every scored net", series, Axis("MACs"), Axis("score on the search images", percent=True))


def _dots(name: str, entries: list[Entry], color: int, line: bool = False, ring: bool = False) -> Series:
    tips = [
        f"{e.score.value:.1%}, {short(e.costs['macs'])} MACs, {short(e.costs['params'])} parameters, "
        f"{e.spec.depth} layers, embedding {e.spec.embed_dim}, patch {e.spec.patch_size}, generation {e.generation}"
        for e in entries
    ]
    macs, scores = [e.costs["macs"] for e in entries], [e.score.value for e in entries]
    return Series(name, macs, scores, color, line, dots=True, tips=tips, ring=ring)


def _net(run: RunDir, config: Config) -> list[str]:
    """The net that was retrained, else the search's best."""
    path = run.retrain_spec if run.retrain_spec.exists() else run.best
    if not path.exists():
        return []
    data = json.loads(path.read_text())
    spec = spec_from_dict(data.get("spec", data))
    drawing = charts.net("Widths; a full bar is the space's largest", spec, *_largest(spec, config))
    columns = columns_of([spec])
    rows = [
        ("MACs", f"{int(cost.macs(columns)[0]):,}"),
        ("FLOPs as ViTAS counts them", f"{int(cost.vitas_flops(columns)[0]):,}"),
        ("parameters", f"{int(cost.params(columns)[0]):,}"), ("layers", spec.depth), ("embedding", spec.embed_dim),
        ("patches", f"{spec.num_patches} of {spec.patch_size} x {spec.patch_size} px"),
    ]  # fmt: skip
    return [page.charts(drawing, page.table(rows))]


def _largest(spec: SubnetSpec, config: Config) -> tuple[int, int]:
    """Widths that fill a bar: those of the space, or of the net where it is of another space."""
    qkv, mlp = (max(getattr(layer, name) for layer in spec.active) for name in ("qkv_dim", "mlp_dim"))
    return max(qkv, config.space.qkv_dim), max(mlp, config.space.mlp_dim)


def commands(starts: Rows) -> list[str]:
    """The last command of each stage, in order, as it may be typed again."""
    last: dict[str, str] = {}
    for start in starts:
        words = [w for w in start["command"] if w != "-u" and not w.startswith(("--local_rank", "--local-rank"))]
        ranks = start["world_size"]
        if ranks > 1 and words[1:3] == ["-m", "vitas_ds"]:
            words = ["deepspeed", "--num_gpus", str(ranks), "--module", *words[2:]]
        last[start["stage"]] = shlex.join(words)
    return list(last.values())


def _versions(starts: Rows) -> list[str]:
    newest = starts[-1]
    rows = [("git commit", newest["git"] or "not a checkout"), *newest["versions"].items()]
    rows += [("machine", ", ".join(str(value) for value in newest["machine"].values()))]
    return ["<p></p>", page.table([(name, value or "not installed") for name, value in rows])]
