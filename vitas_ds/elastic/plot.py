"""Plot the importance of the units of a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitas_ds.elastic.scores import Scores
from vitas_ds.errors import UserError
from vitas_ds.run.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_scores(scores: Scores, path: Path) -> None:
    """Plot heads, MLP units, channels and layers to a PNG file.

    Raises:
        UserError: The file cannot be written.
    """
    from matplotlib.figure import Figure  # train-supernet imports this module, and does not need matplotlib

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    heads, mlp, embedding, layers = figure.subplots(2, 2).ravel()
    _plot_heads(figure, heads, scores)
    _plot_sorted(mlp, [layer.mlp for layer in scores.layers], "hidden units of the MLP, one line per layer")
    _plot_sorted(embedding, [scores.embedding], "channels of the residual stream")
    _plot_layers(layers, scores)
    figure.suptitle(f"importance on {scores.images} images, loss: {scores.loss}", fontsize=11)
    try:
        with replacing(path) as aside:
            figure.savefig(aside, format="png", dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be written: {str(error).splitlines()[0]}") from None


def _plot_heads(figure: Figure, axis: Axes, scores: Scores) -> None:
    table = np.full((len(scores.layers), max(len(x.heads) for x in scores.layers)), np.nan)
    for row, layer in zip(table, scores.layers, strict=True):
        row[: len(layer.heads)] = sorted(layer.heads, reverse=True)
    image: Any = axis.imshow(table, aspect="auto", cmap="viridis")
    figure.colorbar(image, ax=axis, label="loss change without the head")
    axis.set(title="heads, sorted in each layer", xlabel="rank", ylabel="layer")


def _plot_sorted(axis: Axes, rows: Sequence[Sequence[float]], title: str) -> None:
    for i, row in enumerate(rows):
        color = f"C{i}" if len(rows) == 1 else str(0.1 + 0.7 * i / (len(rows) - 1))  # dark: first layer
        axis.plot(np.linspace(0, 100, len(row)), sorted(row, reverse=True), color=color, linewidth=1)
    if min(min(row) for row in rows) > 0:
        axis.set_yscale("log")
    axis.set(title=title, xlabel="rank, % of the units", ylabel="importance")


def _plot_layers(axis: Axes, scores: Scores) -> None:
    places = np.arange(len(scores.layers))
    for shift, name, label in (
        (-0.27, "change", "layer"),
        (0, "attn_change", "attention"),
        (0.27, "mlp_change", "MLP"),
    ):
        axis.bar(places + shift, [getattr(layer, name) for layer in scores.layers], 0.26, label=label)
    axis.set(title="change of the residual stream: 1 - cos(input, output)", xlabel="layer")
    axis.legend(frameon=False, fontsize=8)
