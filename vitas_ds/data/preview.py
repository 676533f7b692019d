"""Image grids: show the input of the network with its labels."""
# B batch, C classes, H and W height and width in pixels

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from vitas_ds.config import Data
from vitas_ds.errors import printable


def save_grid(
    images: Tensor, labels: Tensor, classes: Sequence[str], path: str | Path, data: Data, columns: int = 8
) -> None:
    """Write a batch as a PNG, each image with its class name as the title.

    Args:
        images: Normalized images [B, 3, H, W].
        labels: Classes [B], or soft targets [B, C]: the two largest are shown with their weights.
        classes: Class names.
        path: The PNG file to write.
        data: Source of the mean and standard deviation of the normalization.
        columns: Images per row.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # needs no display and changes no global state
    from matplotlib.figure import Figure

    mean, std = np.array(data.mean), np.array(data.std)
    pixels = images.detach().cpu().float().permute(0, 2, 3, 1).numpy() * std + mean
    rows = -(-len(pixels) // columns)
    figure = Figure(figsize=(1.6 * columns, 1.9 * rows))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))  # one for all images: axes take most of the time to draw
    axes.set(xlim=(0, columns), ylim=(rows, 0), aspect="auto")
    axes.set_axis_off()
    for i, image in enumerate(pixels):
        row, column = divmod(i, columns)
        box = (column + 0.02, column + 0.98, row + 0.99, row + 0.18)  # left, right, bottom, top
        axes.imshow(image.clip(0, 1), interpolation="nearest", extent=box, aspect="auto")
        # class names may contain "$", which must not be parsed as a formula
        axes.text(column + 0.5, row + 0.16, _title(labels[i], classes), fontsize=7, ha="center", parse_math=False)
    figure.savefig(path, format="png", dpi=100)


def _title(label: Tensor, classes: Sequence[str]) -> str:
    if label.ndim == 0:
        return printable(classes[int(label)])
    weights, order = label.sort(descending=True)
    names = [printable(classes[int(i)]) for i in order[:2]]
    return "\n".join(f"{name} {float(weight):.0%}" for name, weight in zip(names, weights[:2], strict=True))
