"""What the network sees, for a person: a grid of images with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from vitas_ds.config import Data
from vitas_ds.data.sources import in_one_line


def grid(
    images: Tensor, labels: Tensor, classes: Sequence[str], path: str | Path, data: Data, columns: int = 8
) -> None:
    """Write normalised ``images`` [B, 3, H, W] as a PNG, ``columns`` in a row, each below its class's name.

    Args:
        labels: [B] classes, or [B, C] soft targets, of which the two largest are named with their shares.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no display, no global state
    from matplotlib.figure import Figure

    mean, std = np.array(data.mean), np.array(data.std)
    pixels = images.detach().cpu().float().permute(0, 2, 3, 1).numpy() * std + mean
    rows = -(-len(pixels) // columns)
    figure = Figure(figsize=(1.6 * columns, 1.9 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for place, image in enumerate(pixels):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(image.clip(0, 1), interpolation="nearest")
        axes.set_title(_title(labels[place], classes), fontsize=7, parse_math=False)
        axes.set_axis_off()
    figure.savefig(path, format="png", dpi=100)


def _title(label: Tensor, classes: Sequence[str]) -> str:
    if label.ndim == 0:
        return in_one_line(classes[int(label)])
    shares, order = label.sort(descending=True)
    names = [in_one_line(classes[int(i)]) for i in order[:2]]
    return "\n".join(f"{name} {float(share):.0%}" for name, share in zip(names, shares[:2], strict=True))
