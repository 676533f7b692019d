"""A search as pictures, drawn anew after each generation: front, hypervolume, and which choices survive.

search/figures/front.png         every candidate by cost and score, the front with its standard errors
search/figures/progress.png      hypervolume, best and mean score of each generation
search/figures/survivors.png     share of each choice among the survivors, generation by generation
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vitas_ds.search import problem
from vitas_ds.search.evolution import Progress, ranked, result_of, values
from vitas_ds.search.ledger import Entry
from vitas_ds.space import SearchSpace
from vitas_ds.spec import SubnetSpec

COLUMNS = (
    "generation",
    "score",
    "stderr",
    "images",
    "macs",
    "vitas_flops",
    "params",
    "depth",
    "patch_size",
    "embed_dim",
)


def draw(progress: Progress, space: SearchSpace, population: int, folder: Path) -> dict[str, Path]:
    """Write the pictures of a search so far into ``folder``, whole or not at all; name -> path."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "front": front_figure(progress.entries),
        "progress": progress_figure(progress.entries),
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
        found.append([known[name] for name in COLUMNS])
    return found


def front_figure(entries: list[Entry], cost: str = "macs") -> Figure:
    """Score against cost: all candidates, darker with the generation, and the front."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel=f"{cost} [M]", ylabel="score")
    xs, ys = ([e.costs[cost] / 1e6 for e in entries], [e.score.value for e in entries])
    dots = axes.scatter(xs, ys, c=[e.generation for e in entries], s=9, cmap="viridis_r", linewidths=0)
    figure.colorbar(dots, label="generation")
    front = result_of(entries, (cost,)).pareto
    errors = [e.score.stderr or 0.0 for e in front]
    xs, ys = ([e.costs[cost] / 1e6 for e in front], [e.score.value for e in front])
    axes.errorbar(
        xs, ys, yerr=errors, color="tab:red", marker="o", ms=4, lw=1, capsize=2, label="front, standard error"
    )
    axes.legend(loc="lower right")
    return figure


def progress_figure(entries: list[Entry]) -> Figure:
    """Best and mean score, and hypervolume, by generation."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    scores, volume = figure.subplots(2, 1, sharex=True)
    generations = np.array([entry.generation for entry in entries])
    value = np.array([entry.score.value for entry in entries])
    steps = np.unique(generations)
    scores.plot(steps, [value[generations <= g].max() for g in steps], label="best so far")
    scores.plot(steps, [value[generations == g].mean() for g in steps], label="mean of the generation")
    scores.set_ylabel("score")
    scores.legend(loc="lower right")
    volume.plot(steps, hypervolumes(entries))
    volume.set(xlabel="generation", ylabel="hypervolume")
    volume.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def hypervolumes(entries: list[Entry], objectives: Sequence[str] = ("macs",)) -> list[float]:
    """What the candidates up to each generation dominate, as a share of score [0, 1] x each cost [0, most of all]."""
    points = values(entries, objectives)
    most = np.concatenate([[1.0], points[:, 1:].max(0)])
    reference = np.array([0.0, *[1.0] * len(objectives)])
    generations = np.array([entry.generation for entry in entries])
    steps = np.unique(generations)
    return [problem.hypervolume((points / most)[generations <= g], reference) for g in steps]


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
        figure.colorbar(image)
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
