"""Forecasts of scores against scikit-learn's ridge regression, counts by hand, and what the scores turn out to be."""

import math

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from vitas_ds.search.scoring.surrogate import CAUTION, STRENGTHS, forecast


def answers(nets: int, images: int = 800, common: float = 0.3, seed: int = 0) -> np.ndarray:
    """[N, K] right (1) or wrong (0): images are easy or hard for all nets alike, by ``common``."""
    rng = np.random.default_rng([seed, 1])
    ease = np.random.default_rng(seed).normal(0, common, (images, 1))
    return (rng.random((images, nets)) < rng.uniform(0.4, 0.6, nets) + ease).astype(float)


def test_alone_it_is_the_mean_with_the_standard_error_of_a_finite_set():
    points = answers(3)[:200]
    told = forecast(points, np.zeros((800, 0)))
    assert told.means == pytest.approx(points.mean(0))
    spread = (points - points.mean(0)).std(0) / math.sqrt(200) * math.sqrt(600 / 799) * 200 / 199
    caution = math.sqrt(CAUTION * 600 / 799) / 200
    assert told.errors == pytest.approx(np.hypot(spread, caution))


def test_it_is_ridge_regression_with_the_best_left_out_error():
    every = answers(15, 300)
    points, known = every[:60, :4], every[:, 4:]
    errors, means = [], []
    for strength in STRENGTHS[:-1]:
        left_out = []
        for i in range(60):
            rows = np.delete(np.arange(60), i)
            alpha = strength * 60  # the intercept is not penalised, and the centre is that of all rows
            fit = Ridge(alpha).fit(known[rows], points[rows])
            left_out.append(points[i] - fit.predict(known[[i]])[0])
        errors.append(np.square(left_out).sum())
        means.append(Ridge(alpha).fit(known[:60], points).predict(known).mean(0))
    best = int(np.argmin(errors))
    told = forecast(points, known)
    assert told.means == pytest.approx(means[best])
    few = math.sqrt(240 / 299) / 60
    assert np.square(told.parts / few).sum() == pytest.approx(errors[best])


def test_nets_that_find_the_same_images_hard_tell_of_each_other():
    every = answers(80, common=0.5)
    points, known, final = every[:100, :40], every[:, 40:], every[:, :40].mean(0)
    paired, alone = forecast(points, known), forecast(points, np.zeros((800, 0)))
    assert paired.errors.mean() < 0.8 * alone.errors.mean()
    assert abs(paired.means - final).mean() < 0.8 * abs(alone.means - final).mean()


@pytest.mark.parametrize("common", [0.0, 0.3])
@pytest.mark.parametrize("seen", [25, 100, 400])
def test_errors_are_as_large_as_they_are_said_to_be(common, seen):
    away = []
    for seed in range(20):
        every = answers(30, common=common, seed=seed)
        told = forecast(every[:seen, :10], every[:, 10:])
        away.append((every[:, :10].mean(0) - told.means) / told.errors)
    assert np.mean(np.abs(away) > 1.645) < 0.12  # of a normal number: 0.10
    assert 0.6 < np.std(away) < 1.05


def test_draws_have_the_errors_and_what_nets_have_in_common():
    every = answers(20)
    told = forecast(every[:50, :3], every[:, 3:3])
    draws = told.draws(20_000, stretch=2.0)
    wanted = 4 * (told.parts.T @ told.parts + np.eye(3) * told.caution**2)
    assert np.cov(draws.T) == pytest.approx(wanted, rel=0.1)
    assert draws.mean(0) == pytest.approx(told.means, abs=0.005)


def test_one_image_and_all_images():
    every = answers(6, 50)
    assert np.isfinite(forecast(every[:1, :3], every[:, 3:]).errors).all()
    done = forecast(every[:, :3], every[:, 3:])
    assert done.means == pytest.approx(every[:, :3].mean(0)) and done.errors == pytest.approx(0)
