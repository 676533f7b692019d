"""Fixtures: real JPEG photographs in an ImageFolder tree."""

from pathlib import Path

import numpy as np
import pytest

from tests.helpers.photos import SIZES, photo_crop
from vitas_ds.config import Data


@pytest.fixture(scope="session")
def tree(tmp_path_factory) -> Path:
    """3 classes with 8, 7 and 6 JPEGs of different sizes, from 64x48 to 640x427."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, count in (("bird", 8), ("ant", 7), ("cat", 6)):
        (root / name).mkdir()
        for i in range(count):
            photo_crop(rng, *SIZES[i]).save(root / name / f"{i}.JPEG", quality=int(rng.integers(70, 96)))
    return root


@pytest.fixture(scope="session")
def data() -> Data:
    return Data(threads=1)
