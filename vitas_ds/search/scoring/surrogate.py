"""Predict final scores of candidates from partial scores.

Subnets of one supernet tend to find the same images easy or hard. The points of a candidate on the images it has seen
are regressed on the points of the fully scored candidates, with one row per image. The fit then predicts the
candidate's points on the remaining images. This is the regression estimator of survey sampling. The
residuals determine the standard error. It is smaller than that of an independent mean: the comparison is paired, with
all fully scored candidates instead of only the closest one.
"""
# n images seen, N images in total, K candidates, P fully scored candidates, R draws

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0, math.inf)  # ridge penalty per image; inf: ignore the other candidates
# Added to each candidate's sum of squared residuals: the same as four more images with a residual of 0.5. Without it,
# a candidate whose few images all fit well would have an error of zero.
EXTRA_VARIANCE = 1.0


@dataclass(frozen=True)
class PredictedScores:
    """Predicted scores on all images, and their errors.

    Attributes:
        means: Predicted scores, [K].
        loadings: Contribution of each seen image to the errors, [n, K]. The error of a candidate is the sum of its
            loadings, each times a standard normal number that all candidates share.
        extra: Standard deviation of a further error, independent for each candidate.
    """

    means: np.ndarray
    loadings: np.ndarray
    extra: float

    @property
    def errors(self) -> np.ndarray:
        """Standard errors, [K]."""
        return np.sqrt((self.loadings**2).sum(0) + self.extra**2)

    def draws(self, count: int, stretch: float = 1.0) -> np.ndarray:
        """Return joint random draws of the final scores, [R, K], with all errors multiplied by ``stretch``.

        Errors are correlated between candidates that share images. The same arguments give the same draws.
        """
        images, candidates = self.loadings.shape
        rng = np.random.default_rng(images)
        shared = rng.standard_normal((count, images)) @ self.loadings
        independent = rng.standard_normal((count, candidates)) * self.extra
        return self.means + stretch * (shared + independent)


def predict_final_scores(points: np.ndarray, reference: np.ndarray) -> PredictedScores:
    """Predict the scores on all images.

    The penalty of the ridge regression is the one with the smallest leave-one-out error.

    Args:
        points: Points of the candidates on each of the first n images, [n, K], in [0, 1].
        reference: Points of fully scored candidates on all images, [N, P]; P may be 0.
    """
    seen, total = len(points), len(reference)
    center, mean = reference[:seen].mean(0), points.mean(0)
    U, s, Vt = np.linalg.svd(reference[:seen] - center, full_matrices=False)
    target = U.T @ (points - mean)
    fits = []
    for penalty in PENALTIES:
        shrinkage = s**2 / (s**2 + penalty * seen)
        leverage = 1 / seen + (U**2 * shrinkage).sum(1)  # weight of an image in its own prediction
        left_out = (points - mean - (U * shrinkage) @ target) / np.maximum(1 - leverage, 1e-6)[:, None]
        fits.append((float((left_out**2).sum()), left_out, shrinkage))
    _, residuals, shrinkage = min(fits, key=lambda fit: fit[0])
    slopes = Vt.T @ ((shrinkage / np.maximum(s, 1e-9))[:, None] * target)
    means = mean + (reference.mean(0) - center) @ slopes
    scale = math.sqrt((total - seen) / max(total - 1, 1)) / seen  # finite population correction
    return PredictedScores(means, residuals * scale, math.sqrt(EXTRA_VARIANCE) * scale)
