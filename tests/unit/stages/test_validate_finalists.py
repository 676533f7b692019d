"""Checks of search.finalists before a stage starts. Reference: configurations with one error each."""

from __future__ import annotations

import warnings

import pytest

from tests.helpers.paths import FIXTURES
from vitas_ds.config import Config
from vitas_ds.errors import UserError
from vitas_ds.recipe import load
from vitas_ds.stages import validate

ON = ("search.finalists.count=4", "search.finalists.steps=40")


def recipe(*overrides: str) -> Config:
    return load(str(FIXTURES / "tiny.yaml"), list(overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["search.finalists.count=4"], "count is set, but steps is 0; set both, or none"),
        (["search.finalists.steps=4"], "steps is set, but count is 0; set both, or none"),
        (["search.finalists.count=1", "search.finalists.steps=4"], "count must be 0, or 2 or more"),
        ([*ON, "search.finalists.keep=1"], r"search\.finalists\.keep=1: .*less than or equal to 0.99"),
        ([*ON, "search.finalists.step=1"], r"unknown key; did you mean steps\?"),
    ],
)
def test_an_invalid_section_is_one_line(overrides, message):
    with pytest.raises(UserError, match=message) as error:
        recipe(*overrides)
    assert "\n" not in str(error.value) and "search.finalists" in str(error.value)


@pytest.mark.parametrize("stage", ["config", "train-supernet"])
def test_trainings_that_cannot_run_are_errors_before_the_supernet(stage):
    with pytest.raises(UserError, match=r"search\.finalists\.steps: 1 is too short for 2 rungs with keep=0\.5; use 2"):
        validate.check(recipe(ON[0], "search.finalists.steps=1"), stage, 1)


def test_the_batch_is_divisible_by_the_ranks():
    with pytest.raises(UserError, match=r"retrain\.batch_size: 16 is not a multiple of 3 ranks"):
        validate._check_finalists(recipe(*ON), 3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["search.finalists.keep=0.3"], r"^search\.finalists\.keep is ignored: search\.finalists\.count is 0"),
        (["search.finalists.init=supernet"], r"^search\.finalists\.init is ignored: "),
        (["search.finalists.count=20", ON[1]], r"^search\.finalists\.count: 20, but .* only 12 candidates"),
        ([*ON, "retrain.ema_decay=0.9999"], r"^retrain\.ema_decay: after the first rung \(20 steps\), 100% of"),
    ],
)
def test_settings_without_the_intended_effect_are_one_warning(overrides, message):
    with pytest.warns(UserWarning, match=message) as found:
        validate.check(recipe(*overrides), "config", 1)
    assert len(found) == 1


@pytest.mark.parametrize("overrides", [[], ["search.algorithm=random"], ["retrain.ema_decay=0.8"]])
def test_good_settings_are_accepted(overrides):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        validate.check(recipe(*ON, *overrides), "config", 2)
    assert found == []
