"""Extrapolation of the accuracy of subnets. References: exact power laws."""

import math

import numpy as np
import pytest

from vitas_ds.search.curve import Longer, extrapolate, mean_curve

STEPS = np.arange(100, 1001, 100)


def test_a_power_law_is_extrapolated_exactly():
    error = 0.6 * (STEPS / 1000) ** -0.3
    found = extrapolate(STEPS, 1 - error)
    assert found.gain == pytest.approx(0.6 * (1 - 2**-0.3))
    assert math.isinf(found.factor)  # it takes 10,600 times as long until doubling gains less than 1 %
    found = extrapolate(STEPS, 1 - 0.1 * (STEPS / 1000) ** -0.5)
    at = 0.1 * found.factor**-0.5
    assert at - 0.1 * (2 * found.factor) ** -0.5 == pytest.approx(0.01)
    assert found.describe(30) == "train the supernet for about 258 epochs (doubling adds 2.9%)"
    assert "more than 300 epochs" in Longer(0.1, math.inf).describe(30)


def test_no_advice_without_a_rising_curve():
    assert extrapolate(STEPS, 1 - 0.01 * (STEPS / 1000) ** -0.5) is None  # doubling would add 0.3 %
    assert extrapolate(STEPS, np.linspace(0.6, 0.5, 10)) is None
    assert extrapolate(STEPS[:4], 1 - 0.6 * (STEPS[:4] / 1000) ** -0.3) is None  # three points after the first quarter
    assert extrapolate([], []) is None and extrapolate(STEPS, np.ones(10)) is None


def test_the_curve_is_the_mean_of_the_random_subnets():
    rows = [
        {"stage": "train-supernet", "step": 5, "loss": 1.0},
        {"stage": "train-supernet", "step": 5, "evaluation": True, "accuracy/largest": 0.9, "accuracy/stderr": 0.1,
         "accuracy/random1": 0.4, "accuracy/random2": 0.6},
        {"stage": "search", "step": 6, "evaluation": True, "accuracy/random1": 0.1},
    ]  # fmt: skip
    assert mean_curve(rows) == ([5], [0.5])
