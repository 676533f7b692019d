"""Images that retraining leaves out to measure its accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.helpers.digits import write_digits
from tests.helpers.paths import FIXTURES
from vitas_ds.config import Config
from vitas_ds.data.sources import hold_out, read_folder
from vitas_ds.errors import UserError
from vitas_ds.recipe import load
from vitas_ds.stages.held_out import held_out_count, held_out_images

TINY = FIXTURES / "tiny.yaml"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held_out")
    write_digits(folder, 12, 1)
    return folder / "train"


def recipe(*overrides: str) -> Config:
    return load(str(TINY), list(overrides))


def test_held_out_images_are_search_images_and_balanced(digits: Path) -> None:
    images = read_folder(digits)
    search = set(hold_out(images, 8, 3)[1].paths)
    train, held_out = held_out_images(recipe(f"data.train={digits}", "retrain.eval_images=35"))
    assert len(held_out) == 35 and set(held_out.paths) < search
    assert sorted([*train.paths, *held_out.paths]) == list(images.paths)
    assert sorted(np.bincount(held_out.labels, minlength=10)) == [3] * 5 + [4] * 5
    # more or fewer measurements do not change the split
    again = held_out_images(recipe(f"data.train={digits}", "retrain.eval_images=35", "retrain.eval_every=0"))
    assert [part.paths for part in again] == [train.paths, held_out.paths]
    all_images, none = held_out_images(recipe(f"data.train={digits}", "retrain.eval_images=0"))
    assert all_images.paths == images.paths and len(none) == 0


@pytest.mark.parametrize(
    ("total", "per_class", "expected"),
    [(1999, 50, 0), (2000, 50, 100), (50_000, 500, 500), (1_281_167, 1000, 10_000), (50_000, 8, 80), (50_000, 4, 0)],
)
def test_the_default_is_one_percent(total: int, per_class: int, expected: int) -> None:
    config = recipe(f"data.search_per_class={per_class}")
    assert held_out_count(config, total) == expected


def test_too_few_images_are_one_line(digits: Path) -> None:
    with pytest.raises(UserError, match=r"^retrain.eval_images: 81, but there are only 80 search images; incr"):
        held_out_images(recipe(f"data.train={digits}", "retrain.eval_images=81"))
    with pytest.raises(UserError, match=r"^data.search_per_class: 12 is too large .*; retrain.eval_images=0 needs no"):
        held_out_images(recipe(f"data.train={digits}", "retrain.eval_images=5", "data.search_per_class=12"))
