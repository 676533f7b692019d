"""Real JPEGs of photographs in an ImageFolder tree, and the ranks of a job that need no process group."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from vitas_ds.config import Data
from vitas_ds.distributed import Ranks

SIZES = [(500, 375), (375, 500), (333, 501), (640, 427), (97, 113), (300, 300), (257, 1000), (64, 48)]


def alone(rank: int = 0, world_size: int = 1) -> Ranks:
    """Rank ``rank`` of a job on the CPU."""
    return Ranks(rank, world_size, rank, torch.device("cpu"))


def crop_of_photograph(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A random part of a real photograph, scaled to the size asked for."""
    photos = load_sample_images().images
    photo = Image.fromarray(photos[rng.integers(len(photos))])
    left, top = rng.integers(0, 200), rng.integers(0, 150)
    return photo.crop((left, top, left + 400, top + 270)).resize((width, height), Image.Resampling.LANCZOS)


@pytest.fixture(scope="session")
def tree(tmp_path_factory) -> Path:
    """3 classes of 8, 7 and 6 JPEGs in sizes from 64x48 to 640x427."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, count in (("bird", 8), ("ant", 7), ("cat", 6)):
        (root / name).mkdir()
        for i in range(count):
            crop_of_photograph(rng, *SIZES[i]).save(root / name / f"{i}.JPEG", quality=int(rng.integers(70, 96)))
    return root


@pytest.fixture(scope="session")
def data() -> Data:
    return Data(threads=1)
