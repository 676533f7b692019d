"""Pixels of the GPU pipeline against the CPU pipeline. Only the decoders differ noticeably, by a little."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from tests.helpers.devices import DEVICES, NEEDS_CUDA, one_rank
from vitas_ds.config import Augment, Data
from vitas_ds.data import loader
from vitas_ds.data.sources import read_folder

RECIPES = {
    "weak": Augment(random_erasing=0),
    "jitter": Augment(random_erasing=0, color_jitter=0.4),
    "deit": Augment(random_erasing=0, rand_augment="rand-m9-mstd0.5-inc1", aug_repeats=3),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(24):
        (root / f"c{i % 2}").mkdir(exist_ok=True)
        photo = Image.fromarray(load_sample_images().images[i % 2])
        left, top = rng.integers(0, 200, 2)
        photo.crop((left, top, left + 400, top + 200)).save(root / f"c{i % 2}" / f"{i}.jpg", quality=92)
    return read_folder(root)


def assert_close(gpu, cpu, std=0.226):
    difference = (gpu.cpu() - cpu).abs() * 255 * std
    assert difference.mean() < 1.5 and (difference > 12).float().mean() < 0.01


@pytest.mark.gpu
@NEEDS_CUDA
def test_evaluation_is_close_to_the_cpu(images):
    gpu, cpu = (list(loader.eval_batches(images, Data(), 224, 10, one_rank(d))) for d in ("cuda", "cpu"))
    for a, b in zip(gpu, cpu, strict=True):
        assert a.images.is_cuda and a.labels.is_cuda and torch.equal(a.ids, b.ids)
        assert_close(a.images, b.images)


@pytest.mark.parametrize("device", DEVICES)
def test_decoded_images_equal_eval_batches(images, device):
    ranks = one_rank(device)
    direct = torch.cat([b.images for b in loader.eval_batches(images, Data(), 224, 10, ranks)])
    cached = loader.normalize(loader.decode_all(images, Data(), 224, ranks).to(ranks.device), Data())
    assert torch.equal(direct, cached)


@pytest.mark.gpu
@NEEDS_CUDA
def test_host_decoder_gives_the_pixels_of_the_cpu(images):
    """After the decoder, evaluation differs by rounding only."""
    data = Data(decoder="host")
    gpu, cpu = (loader.decode_all(images, data, 224, one_rank(d)).int() for d in ("cuda", "cpu"))
    assert (gpu - cpu).abs().max() <= 1 and (gpu != cpu).float().mean() < 0.05


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize("name", RECIPES)
def test_training_is_close_to_the_cpu(images, name):
    streams = [loader.train_batches(images, Data(), RECIPES[name], 224, 12, 0, 0, one_rank(d)) for d in ("cuda", "cpu")]
    for a, b in itertools.islice(zip(*streams, strict=True), 4):
        assert torch.equal(a.ids, b.ids)
        assert_close(a.images, b.images)


@pytest.mark.parametrize("device", DEVICES)
def test_training_resumes_bitwise(images, device):
    augment = RECIPES["deit"].model_copy(update={"random_erasing": 0.5})
    uninterrupted = loader.train_batches(images, Data(), augment, 224, 12, 0, 0, one_rank(device))
    resumed = loader.train_batches(images, Data(), augment, 224, 12, 0, 3, one_rank(device))
    for a, b in itertools.islice(zip(itertools.islice(uninterrupted, 3, None), resumed, strict=False), 3):
        assert torch.equal(a.images, b.images)
