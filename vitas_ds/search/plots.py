"""Figures of a search: front, progress, and surviving choices.

search/figures/front.png         score of each candidate against its costs, front with standard errors, budget
search/figures/progress.png      hypervolume, best and mean score of each generation
search/figures/survivors.png     share of each choice among the survivors of each generation
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from vitas_ds.arch.space import SearchSpace
from vitas_ds.run.files import replacing
from vitas_ds.search.colors import BLUE, DARK, ORANGE, PALE, RED
from vitas_ds.search.feasible.budget import Budget
from vitas_ds.search.loop import GenerationSummary
from vitas_ds.search.problem import SearchProblem
from vitas_ds.search.ranking import hypervolume, make_result
from vitas_ds.search.scoring.candidate import Candidate
from vitas_ds.search.survivors import survivor_shares

AXES = {  # label and unit
    "latency": ("predicted latency [ms]", 1e-9), "activations": ("activations of an image [MB]", 1e-6),
    "params": ("parameters [M]", 1e-6), "vitas_flops": ("ViTAS FLOPs per image [M]", 1e-6),
    "macs": ("MACs per image [M]", 1e-6),
}  # fmt: skip
SCORE = "score on the search images"
GENERATIONS = LinearSegmentedColormap.from_list("generations", [PALE, BLUE, DARK])
NEAR = 1.5  # a limit farther from all candidates would shrink them


def save_figures(summary: GenerationSummary, problem: SearchProblem, folder: Path) -> dict[str, Path]:
    """Draw the search so far and write the figures atomically. Return their paths by name."""
    figures = {
        "front": front_figure(summary.candidates, summary.max_costs, problem.budget),
        "progress": progress_figure(summary.candidates, summary.max_costs),
        "survivors": survivors_figure(problem.space, summary.candidates, problem.cfg.population),
    }
    paths = {name: folder / f"{name}.png" for name in figures}
    for name, figure in figures.items():
        with replacing(paths[name]) as aside:
            figure.savefig(aside, dpi=110, format="png")
    return paths


def front_figure(candidates: list[Candidate], costs: Iterable[str] = ("macs",), budget: Budget | None = None) -> Figure:
    """Plot the scores against each cost: generations as colors, the front as a line, the budget as dashed lines."""
    costs = tuple(costs)
    figure = Figure(figsize=(1 + 5.5 * len(costs), 4.8), layout="constrained")
    panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    for axes, cost in zip(panels, costs, strict=True):
        label, unit = AXES[cost]
        xs, ys = ([c.costs[cost] * unit for c in candidates], [c.value for c in candidates])
        dots = axes.scatter(xs, ys, c=[c.generation for c in candidates], s=14, cmap=GENERATIONS, linewidths=0)
        _plot_front(axes, make_result(candidates, (cost,)).pareto, cost, unit, max(xs))
        _plot_budget(axes, [limit * unit for limit in (budget or {}).get(cost, ())], min(xs), max(xs))
        axes.set_xlabel(label)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel(score_label(candidates))
    panels[0].yaxis.set_major_formatter(PercentFormatter(1))
    shown = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=2, frameon=False)
    figure.colorbar(dots, ax=panels, label="generation", ticks=MaxNLocator(integer=True))
    figure.suptitle(f"{len(candidates):,} candidates")
    return figure


def score_label(candidates: list[Candidate]) -> str:
    """Return the label of the scores, which may be corrected."""
    return "corrected score" if any(c.supernet_score is not None for c in candidates) else SCORE


def _plot_front(axes: Axes, front: list[Candidate], cost: str, unit: float, end: float) -> None:
    """Plot the front as steps: constant from each candidate to the next more expensive one."""
    xs, ys = ([c.costs[cost] * unit for c in front], [c.value for c in front])
    axes.plot([*xs, end], [*ys, ys[-1]], color=ORANGE, lw=1.4, drawstyle="steps-post")
    errors = [c.stderr or 0.0 for c in front]
    label = "best up to this cost, standard error"
    axes.errorbar(xs, ys, yerr=errors, color=ORANGE, fmt="o", ms=5, elinewidth=1, capsize=2, label=label)


def _plot_budget(axes: Axes, limits: list[float], low: float, high: float) -> None:
    """Plot the limits near the candidates."""
    for limit in limits:
        if low / NEAR <= limit <= high * NEAR:
            axes.axvline(limit, color=RED, lw=1.2, ls="--", label="budget")


def progress_figure(candidates: list[Candidate], max_costs: dict[str, float]) -> Figure:
    """Plot best score, mean score and hypervolume of each generation."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    scores, volume = figure.subplots(2, 1, sharex=True)
    generations = np.array([c.generation for c in candidates])
    values = np.array([c.value for c in candidates])
    steps = np.unique(generations)
    scores.plot(steps, [values[generations <= g].max() for g in steps], marker=".", color=BLUE, label="best so far")
    means = [values[generations == g].mean() for g in steps]
    scores.plot(steps, means, marker=".", color=PALE, label="mean of the generation")
    scores.set_ylabel(score_label(candidates))
    scores.yaxis.set_major_formatter(PercentFormatter(1))
    scores.legend(loc="best")
    volumes = [hypervolume([c for c in candidates if c.generation <= g], max_costs) for g in steps]
    volume.plot(steps, volumes, marker=".", color=ORANGE)
    volume.set(xlabel="generation", ylabel="hypervolume,\nshare of the box")
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
        bar = figure.colorbar(image, format=PercentFormatter(1, decimals=0))
        bar.ax.tick_params(labelsize=7)
    figure.suptitle(f"Share of each choice among the {population} best candidates so far")
    return figure
