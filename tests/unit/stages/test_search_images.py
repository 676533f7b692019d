"""The search scores only on images that its supernet has not learned.

Reference: the list of images that training wrote.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests.helpers.digits import write_digits
from tests.helpers.paths import FIXTURES
from vitas_ds.config import Config
from vitas_ds.data.sources import write_list
from vitas_ds.errors import UserError
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.recipe import load
from vitas_ds.run.run_dir import run_of
from vitas_ds.run.start import open_run
from vitas_ds.stages import search
from vitas_ds.stages.common import split_training_images
from vitas_ds.stages.search import search_images

TINY = FIXTURES / "tiny.yaml"


def recipe(folder: Path, *overrides: str) -> Config:
    return load(str(TINY), [f"run.dir={folder}", f"data.train={folder}/digits/train", *overrides])


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder of images, and a run with the list that train-supernet writes."""
    write_digits(tmp_path / "digits", 12, 1)
    config = recipe(tmp_path)
    open_run(config, True)
    write_list(split_training_images(config)[1].paths, run_of(config).search_images)
    return tmp_path


def images_of(config: Config) -> list[str]:
    return sorted(search_images(config, run_of(config)).paths)


def test_search_images_equal_those_of_training(trained: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = images_of(recipe(trained))
        weights = trained / "tiny" / "supernet" / "checkpoints" / "step-00000007"
        assert images_of(recipe(trained, "run.name=other", f"search.checkpoint={weights}")) == names
    assert names == sorted((trained / "tiny" / "search_images.txt").read_text().splitlines()) and len(names) == 80


def test_changed_files_are_an_error(trained: Path) -> None:
    first = min((trained / "digits" / "train" / "4").iterdir())
    first.rename(first.with_name("zzz.jpg"))
    with pytest.raises(UserError, match=r"of 80 search images, such as 4/.*jpg, are not in .*tiny/search_images.txt"):
        images_of(recipe(trained))
    config = recipe(trained)
    run = run_of(config)
    run.supernet.path.mkdir()
    supernet = Supernet(config.space, "bilateral", 2, class_token_only=True)
    init_weights(supernet, 0)
    save_file(supernet.state_dict(), run.supernet_weights)
    with pytest.raises(UserError, match="of 80 search images"):
        search.run(config)
    assert not run.search.exists()


def test_supernet_of_another_seed_is_an_error(trained: Path) -> None:
    weights = trained / "tiny" / "supernet" / "weights.safetensors"
    with pytest.raises(UserError, match=r"run\.seed of its training"):
        images_of(recipe(trained, "run.name=other", "run.seed=4", f"search.checkpoint={weights}"))


def test_supernet_without_a_list_is_a_warning(trained: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"no search_images.txt .* the search may score on images that the supernet has learned"
    ):
        assert len(images_of(recipe(trained, "run.name=other", f"search.checkpoint={trained}/w.safetensors"))) == 80
