"""What nets that were scored on some of the images will reach on all of them, told from nets that have seen all.

Nets of one supernet find the same images easy and the same ones hard. So a net's answers are regressed on those of the
nets that were scored on all images, image by image, and the regression tells its answers on the images to come (the
regression estimator of survey sampling). What is left unexplained is the doubt: paired differences instead of
independent ones, with every known net as a partner and not the nearest alone.
"""
# n images seen, N images in all, K nets, P known nets, R draws

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, math.inf)  # of the penalty, for each image; inf: nothing is told by others
CAUTION = 1.0  # added to each net's squared residuals: four more images on which it was told wrong by a half


@dataclass(frozen=True)
class Forecast:
    """Expected scores on all images, and the share that each image seen has in their errors."""

    means: np.ndarray  # [K]
    parts: np.ndarray  # [n, K]; the error of net k is the sum of its parts, each times a standard normal number
    caution: float  # standard deviation of a further error, of each net for itself

    @property
    def errors(self) -> np.ndarray:
        """[K] standard errors."""
        return np.sqrt((self.parts**2).sum(0) + self.caution**2)

    def draws(self, count: int, stretch: float = 1.0) -> np.ndarray:
        """[R, K] what the scores may turn out to be, errors in common kept, each ``stretch`` times as large."""
        images, nets = self.parts.shape
        rng = np.random.default_rng(images)
        together = rng.standard_normal((count, images)) @ self.parts
        alone = rng.standard_normal((count, nets)) * self.caution
        return self.means + stretch * (together + alone)


def forecast(points: np.ndarray, known: np.ndarray) -> Forecast:
    """The final scores of nets.

    Args:
        points: [n, K] what the nets earned on each of the first n images, in [0, 1].
        known: [N, P] the same of other nets on all images; P may be 0.
    """
    seen, every = len(points), len(known)
    centre, mean = known[:seen].mean(0), points.mean(0)
    U, s, Vt = np.linalg.svd(known[:seen] - centre, full_matrices=False)
    target = U.T @ (points - mean)
    fits = []
    for strength in STRENGTHS:
        kept = s**2 / (s**2 + strength * seen)
        own = 1 / seen + (U**2 * kept).sum(1)  # an image's weight in what is told of itself
        left_out = (points - mean - (U * kept) @ target) / np.maximum(1 - own, 1e-6)[:, None]
        fits.append((float((left_out**2).sum()), left_out, kept))
    _, residuals, kept = min(fits, key=lambda fit: fit[0])
    slopes = Vt.T @ ((kept / np.maximum(s, 1e-9))[:, None] * target)
    means = mean + (known.mean(0) - centre) @ slopes
    few = math.sqrt((every - seen) / max(every - 1, 1)) / seen  # the images are drawn from a finite set
    return Forecast(means, residuals * few, math.sqrt(CAUTION) * few)
