"""Predicted final scores against scikit-learn's ridge regression, formulas, and the true final scores."""

import math

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from vitas_ds.search.scoring.surrogate import EXTRA_VARIANCE, PENALTIES, predict_final_scores


def answers(candidates: int, images: int = 800, common: float = 0.3, seed: int = 0) -> np.ndarray:
    """Draw correct (1) and wrong (0) answers, [N, K]. ``common`` is the spread of the images' difficulty."""
    rng = np.random.default_rng([seed, 1])
    ease = np.random.default_rng(seed).normal(0, common, (images, 1))
    return (rng.random((images, candidates)) < rng.uniform(0.4, 0.6, candidates) + ease).astype(float)


def test_without_reference_it_is_the_mean_with_the_finite_population_error():
    points = answers(3)[:200]
    predicted = predict_final_scores(points, np.zeros((800, 0)))
    assert predicted.means == pytest.approx(points.mean(0))
    spread = (points - points.mean(0)).std(0) / math.sqrt(200) * math.sqrt(600 / 799) * 200 / 199
    extra = math.sqrt(EXTRA_VARIANCE * 600 / 799) / 200
    assert predicted.errors == pytest.approx(np.hypot(spread, extra))


def test_ridge_regression_with_the_smallest_leave_one_out_error():
    full = answers(15, 300)
    points, reference = full[:60, :4], full[:, 4:]
    errors, means = [], []
    for penalty in PENALTIES[:-1]:
        left_out = []
        for i in range(60):
            rows = np.delete(np.arange(60), i)
            alpha = penalty * 60  # no penalty on the intercept; the center is that of all rows
            fit = Ridge(alpha).fit(reference[rows], points[rows])
            left_out.append(points[i] - fit.predict(reference[[i]])[0])
        errors.append(np.square(left_out).sum())
        means.append(Ridge(alpha).fit(reference[:60], points).predict(reference).mean(0))
    best = int(np.argmin(errors))
    predicted = predict_final_scores(points, reference)
    assert predicted.means == pytest.approx(means[best])
    scale = math.sqrt(240 / 299) / 60
    assert np.square(predicted.loadings / scale).sum() == pytest.approx(errors[best])


def test_shared_difficulty_of_images_reduces_the_errors():
    full = answers(80, common=0.5)
    points, reference, final = full[:100, :40], full[:, 40:], full[:, :40].mean(0)
    paired, alone = predict_final_scores(points, reference), predict_final_scores(points, np.zeros((800, 0)))
    assert paired.errors.mean() < 0.8 * alone.errors.mean()
    assert abs(paired.means - final).mean() < 0.8 * abs(alone.means - final).mean()


@pytest.mark.parametrize("common", [0.0, 0.3])
@pytest.mark.parametrize("seen", [25, 100, 400])
def test_errors_have_the_stated_size(common, seen):
    deviations = []
    for seed in range(20):
        full = answers(30, common=common, seed=seed)
        predicted = predict_final_scores(full[:seen, :10], full[:, 10:])
        deviations.append((full[:, :10].mean(0) - predicted.means) / predicted.errors)
    assert np.mean(np.abs(deviations) > 1.645) < 0.12  # 0.10 for a normal distribution
    assert 0.6 < np.std(deviations) < 1.05


def test_draws_have_the_stated_covariance():
    full = answers(20)
    predicted = predict_final_scores(full[:50, :3], full[:, 3:3])
    draws = predicted.draws(20_000, stretch=2.0)
    expected = 4 * (predicted.loadings.T @ predicted.loadings + np.eye(3) * predicted.extra**2)
    assert np.cov(draws.T) == pytest.approx(expected, rel=0.1)
    assert draws.mean(0) == pytest.approx(predicted.means, abs=0.005)


def test_one_image_and_all_images():
    full = answers(6, 50)
    assert np.isfinite(predict_final_scores(full[:1, :3], full[:, 3:]).errors).all()
    done = predict_final_scores(full[:, :3], full[:, 3:])
    assert done.means == pytest.approx(full[:, :3].mean(0)) and done.errors == pytest.approx(0)
