"""Would a longer training of the supernet help? Extrapolate the accuracy of its random subnets.

The error of the subnets is fitted by a power law of the number of steps. The advice is rough: the learning rate falls
during a training, and a longer one falls more slowly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PREFIX = "accuracy/"  # of the metrics of subnets, see probe.py
START = 0.25  # ignored share of the training: its curve depends on the warm-up
MIN_POINTS = 4
MIN_GAIN = 0.01  # a training is long enough if twice the length adds less accuracy
MOST = 10  # longest advice, relative to the training


@dataclass(frozen=True)
class Longer:
    """Advice to train longer.

    Attributes:
        gain: Accuracy that twice the length would add.
        factor: Relative length from which doubling adds less than ``MIN_GAIN``; infinite above ``MOST``.
    """

    gain: float
    factor: float

    def describe(self, epochs: int) -> str:
        """Return the extrapolated advice for a training of ``epochs``."""
        if math.isinf(self.factor):
            until = f"more than {MOST * epochs:,} epochs"
        else:
            until = f"about {math.ceil(epochs * self.factor):,} epochs"
        return f"train the supernet for {until} (doubling adds {self.gain:.1%})"


def mean_curve(metrics: Sequence[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Return the steps and the mean accuracies of the random subnets, from the records of a run."""
    rows = [row for row in metrics if row["stage"] == "train-supernet" and row.get("evaluation")]
    means = [np.mean([v for name, v in row.items() if name.startswith(f"{PREFIX}random")]) for row in rows]
    return [row["step"] for row in rows], [float(mean) for mean in means]


def extrapolate(steps: Sequence[float], accuracies: Sequence[float]) -> Longer | None:
    """Fit the curve. None if it is too short, no longer rises, or if doubling would add less than ``MIN_GAIN``."""
    x, error = np.array(steps, float), 1 - np.array(accuracies, float)
    kept = (x > START * x.max(initial=0)) & (error > 0)
    if kept.sum() < MIN_POINTS:
        return None
    slope, constant = np.polyfit(np.log(x[kept]), np.log(error[kept]), 1)
    if slope >= 0:
        return None
    gain = math.exp(constant + slope * math.log(x.max())) * (1 - 2**slope)
    if gain < MIN_GAIN:
        return None
    factor = (gain / MIN_GAIN) ** (-1 / slope)
    return Longer(gain, factor if factor <= MOST else math.inf)
