"""A search as pictures, drawn anew after each generation: front, hypervolume, and which choices survive.

search/figures/front.png         every candidate by cost and score, the front with its standard errors
search/figures/progress.png      hypervolume, best and mean score of each generation
search/figures/survivors.png     share of each choice among the survivors, generation by generation
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
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.search.loop import Progress, hypervolume, ranked, result_of
from vitas_ds.search.scoring.ledger import Entry

COLUMNS = (
    "generation", "score", "stderr", "images", "macs", "vitas_flops", "params", "activations", "predicted_latency",
    "depth", "patch_size", "embed_dim",
)  # fmt: skip


def draw(progress: Progress, space: SearchSpace, population: int, folder: Path) -> dict[str, Path]:
    """Write the pictures of a search so far into ``folder``, whole or not at all; name -> path."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "front": front_figure(progress.entries, progress.most),
        "progress": progress_figure(progress.entries, progress.most),
        "survivors": survivors_figure(space, progress.entries, population),
    }
    for name, figure in figures.items():
        aside = folder / f".{name}.tmp.png"
        figure.savefig(aside, dpi=110)
        aside.replace(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in figures}


def rows(entries: list[Entry]) -> list[list[Any]]:
    """A table of candidates, one row each, of ``COLUMNS``."""
    found = []
    for entry in entries:
        known = entry.to_dict() | {name: getattr(entry.spec, name) for name in ("depth", "patch_size", "embed_dim")}
        found.append([known.get(name) for name in COLUMNS])
    return found


UNITS = {"latency": ("predicted latency [ms]", 1e-9), "activations": ("activations [MB]", 1e-6)}


def front_figure(entries: list[Entry], costs: Iterable[str] = ("macs",)) -> Figure:
    """Score against each cost: all candidates, darker with the generation, and the best score up to each cost."""
    costs = tuple(costs)
    figure = Figure(figsize=(1 + 5.5 * len(costs), 4.5), layout="constrained")
    panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    for axes, cost in zip(panels, costs, strict=True):
        name, unit = UNITS.get(cost, (f"{cost} [M]".replace("macs", "MACs"), 1e-6))
        xs, ys = ([e.costs[cost] * unit for e in entries], [e.score.value for e in entries])
        dots = axes.scatter(xs, ys, c=[e.generation for e in entries], s=12, cmap="viridis_r", linewidths=0)
        _stairs(axes, result_of(entries, (cost,)).pareto, cost, unit, max(xs))
        axes.set_xlabel(name)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("score on the search images")
    panels[-1].legend(loc="lower right")
    figure.colorbar(dots, ax=panels, label="generation", ticks=MaxNLocator(integer=True))
    figure.suptitle(f"{len(entries):,} candidates")
    return figure


def _stairs(axes: Axes, front: list[Entry], cost: str, unit: float, end: float) -> None:
    """The front, flat from each net to the next more expensive one."""
    xs, ys = ([e.costs[cost] * unit for e in front], [e.score.value for e in front])
    axes.plot([*xs, end], [*ys, ys[-1]], color="tab:red", lw=1.2, drawstyle="steps-post")
    errors = [e.score.stderr or 0.0 for e in front]
    label = "best up to this cost, standard error"
    axes.errorbar(xs, ys, yerr=errors, color="tab:red", fmt="o", ms=4, elinewidth=0.7, capsize=2, label=label)


def progress_figure(entries: list[Entry], most: dict[str, float]) -> Figure:
    """Best and mean score, and hypervolume, by generation."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    scores, volume = figure.subplots(2, 1, sharex=True)
    generations = np.array([entry.generation for entry in entries])
    value = np.array([entry.score.value for entry in entries])
    steps = np.unique(generations)
    scores.plot(steps, [value[generations <= g].max() for g in steps], marker=".", label="best so far")
    scores.plot(steps, [value[generations == g].mean() for g in steps], marker=".", label="mean of the generation")
    scores.set_ylabel("score on the search images")
    scores.legend(loc="best")
    volume.plot(steps, [hypervolume([e for e in entries if e.generation <= g], most) for g in steps], marker=".")
    volume.set(xlabel="generation", ylabel=f"hypervolume: score, {', '.join(most)}")
    volume.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (scores, volume):
        axes.grid(alpha=0.25)
    return figure


def survivors_figure(space: SearchSpace, entries: list[Entry], population: int) -> Figure:
    """A picture for each choice: its values upwards, generations to the right, darker the more survivors have it."""
    shares = survivors(space, entries, population)
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    for axes, (name, (choices, share)) in zip(figure.subplots(2, 3).flat, shares.items(), strict=True):
        extent = (0.5, len(share) + 0.5, -0.5, len(choices) - 0.5)
        image = axes.imshow(share.T, aspect="auto", origin="lower", cmap="Blues", vmin=0, extent=extent)
        axes.set(title=name, xlabel="generation", yticks=range(len(choices)), yticklabels=choices)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize=7)
        figure.colorbar(image).ax.tick_params(labelsize=7)
    figure.suptitle(f"What the {population} best nets so far are made of: share of each choice")
    return figure


def survivors(
    space: SearchSpace, entries: list[Entry], population: int
) -> dict[str, tuple[tuple[int, ...], np.ndarray]]:
    """Each choice's values and their shares [generations, values] among the best ``population`` nets so far."""
    choices: dict[str, tuple[int, ...]] = {
        "patch size": space.patch_sizes,
        "embedding width": space.embed_widths,
        "layers": tuple(range(space.fewest_layers, space.depth + 1)),
        "heads of a layer": space.num_heads,
        "q/k/v width of a layer": space.qkv_widths,
        "MLP width of a layer": space.mlp_widths,
    }
    shares: dict[str, list[np.ndarray]] = {name: [] for name in choices}
    for generation in sorted({entry.generation for entry in entries}):
        best = ranked([entry for entry in entries if entry.generation <= generation])[:population]
        taken = [_taken(entry.spec) for entry in best]
        for i, (name, allowed) in enumerate(choices.items()):
            all_taken = np.array([value for one in taken for value in one[i]])
            counts = (all_taken[:, None] == np.array(allowed)).sum(0)
            shares[name].append(counts / max(counts.sum(), 1))
    return {name: (choices[name], np.array(share)) for name, share in shares.items()}


def _taken(spec: SubnetSpec) -> tuple[list[int], ...]:
    """What a net has of each choice, in the order of ``survivors``."""
    layers = spec.active
    heads, qkv, mlp = ([getattr(x, name) for x in layers] for name in ("num_heads", "qkv_dim", "mlp_dim"))
    return [spec.patch_size], [spec.embed_dim], [spec.depth], heads, qkv, mlp
