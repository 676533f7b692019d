"""Ridge regression with the penalty of the smallest leave-one-out error."""
# K rows, P features

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PENALTIES = 10.0 ** np.arange(-1, 5)


@dataclass(frozen=True)
class Ridge:
    """Ridge regression: ``mean + (features - center) @ weights``."""

    center: np.ndarray  # [P]
    weights: np.ndarray  # [P]
    mean: float

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Predict the scores [K] of features [K, P]."""
        return self.mean + (features - self.center) @ self.weights


def fit_ridge(features: np.ndarray, scores: np.ndarray) -> Ridge:
    """Fit a ridge regression with the penalty of the smallest leave-one-out error."""
    center, mean = features.mean(0), float(scores.mean())
    U, s, Vt = np.linalg.svd(features - center, full_matrices=False)
    kept = s > 1e-9 * max(s[0], 1e-9)
    U, s, Vt = U[:, kept], s[kept], Vt[kept]
    target = scores - mean
    errors = []
    for penalty in PENALTIES:
        shrunk = U * (s**2 / (s**2 + penalty))
        left_out = (target - shrunk @ (U.T @ target)) / (1 - 1 / len(scores) - (shrunk * U).sum(1))
        errors.append((left_out**2).mean())
    penalty = PENALTIES[int(np.argmin(errors))]
    return Ridge(center, Vt.T @ (s / (s**2 + penalty) * (U.T @ target)), mean)
