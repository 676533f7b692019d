"""What is refused before a stage starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitas_ds import checks
from vitas_ds.config import Config, load
from vitas_ds.errors import UserError

TINY = Path(__file__).parents[1] / "fixtures" / "tiny.yaml"


def recipe(*overrides: str) -> Config:
    return load(str(TINY), list(overrides))


@pytest.mark.parametrize("stage", ["config", "train-supernet", "search", "retrain"])
def test_images_that_evaluation_would_have_to_enlarge(stage: str) -> None:
    with pytest.raises(UserError, match=r"data\.resize: 27 is below space\.image_size=28; 28 or above"):
        checks.check(recipe("data.resize=27"), stage, 1)
    checks.check(recipe(), "config", 1)
