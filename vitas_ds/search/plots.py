"""Figures of a search: front, progress, and surviving choices.

search/figures/front.png         score of each candidate against its costs, front with standard errors
search/figures/progress.png      hypervolume, best and mean score of each generation
search/figures/survivors.png     share of each choice among the survivors of each generation
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import spec_from_dict
from vitas_ds.run.files import replacing
from vitas_ds.search.loop import GenerationSummary
from vitas_ds.search.problem import SearchProblem
from vitas_ds.search.ranking import hypervolume, make_result
from vitas_ds.search.scoring.candidate import Candidate
from vitas_ds.search.survivors import survivor_shares

COLUMNS = (
    "generation", "score", "stderr", "images", "macs", "vitas_flops", "params", "activations", "predicted_latency",
    "depth", "patch_size", "embed_dim",
)  # fmt: skip

FRONT_COLUMNS = ("index", *COLUMNS)

BUDGET_COLUMNS = ("budget", "score", "stderr", "accuracy", "macs", "vitas_flops", "params", "predicted_latency")

AXES = {"latency": ("predicted latency [ms]", 1e-9), "activations": ("activations [MB]", 1e-6)}  # label, unit


def save_figures(summary: GenerationSummary, problem: SearchProblem, folder: Path) -> dict[str, Path]:
    """Draw the search so far and write the figures atomically. Return their paths by name."""
    figures = {
        "front": front_figure(summary.candidates, summary.max_costs),
        "progress": progress_figure(summary.candidates, summary.max_costs),
        "survivors": survivors_figure(problem.space, summary.candidates, problem.cfg.population),
    }
    paths = {name: folder / f"{name}.png" for name in figures}
    for name, figure in figures.items():
        with replacing(paths[name]) as aside:
            figure.savefig(aside, dpi=110, format="png")
    return paths


def table_rows(candidates: list[Candidate]) -> list[list[Any]]:
    """Return one table row of ``COLUMNS`` per candidate."""
    rows = []
    for candidate in candidates:
        spec = {name: getattr(candidate.spec, name) for name in ("depth", "patch_size", "embed_dim")}
        values = candidate.to_dict() | spec
        rows.append([values.get(name) for name in COLUMNS])
    return rows


def front_rows(entries: list[dict[str, Any]]) -> list[list[Any]]:
    """Return one table row of ``FRONT_COLUMNS`` per entry of ``pareto.json``."""
    rows = []
    for entry in entries:
        spec = spec_from_dict(entry["spec"], "pareto.json")
        values = entry | {name: getattr(spec, name) for name in ("depth", "patch_size", "embed_dim")}
        rows.append([values.get(name) for name in FRONT_COLUMNS])
    return rows


def budget_rows(entries: list[dict[str, Any]]) -> list[list[Any]]:
    """Return one table row of ``BUDGET_COLUMNS`` per entry of ``search.budgets`` in ``summary.json``."""
    rows = []
    for entry in entries:
        trained = {"accuracy": (entry.get("finalist") or {}).get("accuracy")}
        rows.append([(entry | trained).get(name) for name in BUDGET_COLUMNS])
    return rows


def front_figure(candidates: list[Candidate], costs: Iterable[str] = ("macs",)) -> Figure:
    """Plot the scores against each cost, with the generation as color and the front as a line."""
    costs = tuple(costs)
    figure = Figure(figsize=(1 + 5.5 * len(costs), 4.5), layout="constrained")
    panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    for axes, cost in zip(panels, costs, strict=True):
        label, unit = AXES.get(cost, (f"{cost} [M]".replace("macs", "MACs"), 1e-6))
        xs, ys = ([c.costs[cost] * unit for c in candidates], [c.value for c in candidates])
        dots = axes.scatter(xs, ys, c=[c.generation for c in candidates], s=12, cmap="viridis_r", linewidths=0)
        _plot_front(axes, make_result(candidates, (cost,)).pareto, cost, unit, max(xs))
        axes.set_xlabel(label)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("score on the search images")
    panels[-1].legend(loc="lower right")
    figure.colorbar(dots, ax=panels, label="generation", ticks=MaxNLocator(integer=True))
    figure.suptitle(f"{len(candidates):,} candidates")
    return figure


def _plot_front(axes: Axes, front: list[Candidate], cost: str, unit: float, end: float) -> None:
    """Plot the front as steps: constant from each candidate to the next more expensive one."""
    xs, ys = ([c.costs[cost] * unit for c in front], [c.value for c in front])
    axes.plot([*xs, end], [*ys, ys[-1]], color="tab:red", lw=1.2, drawstyle="steps-post")
    errors = [c.stderr or 0.0 for c in front]
    label = "best up to this cost, standard error"
    axes.errorbar(xs, ys, yerr=errors, color="tab:red", fmt="o", ms=4, elinewidth=0.7, capsize=2, label=label)


def progress_figure(candidates: list[Candidate], max_costs: dict[str, float]) -> Figure:
    """Plot best score, mean score and hypervolume of each generation."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    scores, volume = figure.subplots(2, 1, sharex=True)
    generations = np.array([c.generation for c in candidates])
    values = np.array([c.value for c in candidates])
    steps = np.unique(generations)
    scores.plot(steps, [values[generations <= g].max() for g in steps], marker=".", label="best so far")
    scores.plot(steps, [values[generations == g].mean() for g in steps], marker=".", label="mean of the generation")
    scores.set_ylabel("score on the search images")
    scores.legend(loc="best")
    volumes = [hypervolume([c for c in candidates if c.generation <= g], max_costs) for g in steps]
    volume.plot(steps, volumes, marker=".")
    volume.set(xlabel="generation", ylabel=f"hypervolume: score, {', '.join(max_costs)}")
    volume.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (scores, volume):
        axes.grid(alpha=0.25)
    return figure


def survivors_figure(space: SearchSpace, candidates: list[Candidate], population: int) -> Figure:
    """Plot the share of each value of each choice among the survivors, one panel per choice."""
    shares = survivor_shares(space, candidates, population)
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    for axes, (name, (choices, share)) in zip(figure.subplots(2, 3).flat, shares.items(), strict=True):
        extent = (0.5, len(share) + 0.5, -0.5, len(choices) - 0.5)
        image = axes.imshow(share.T, aspect="auto", origin="lower", cmap="Blues", vmin=0, extent=extent)
        axes.set(title=name, xlabel="generation", yticks=range(len(choices)), yticklabels=choices)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize=7)
        figure.colorbar(image).ax.tick_params(labelsize=7)
    figure.suptitle(f"Share of each choice among the {population} best candidates so far")
    return figure
