"""Batches: evaluation against torchvision, training against a second run, another number of ranks and a resume."""

import gc
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from tests.helpers.paths import ROOT
from tests.helpers.photos import alone, take
from vitas_ds.config import Augment, Data
from vitas_ds.data import loader
from vitas_ds.data.sources import read_folder
from vitas_ds.errors import UserError

DEIT = Augment(color_jitter=0.3, rand_augment="rand-m9-mstd0.5-inc1", random_erasing=0.5, aug_repeats=3)


def torchvision_float(path, resize, size):
    """v2 on float pixels in 0 ... 255, not rounded."""
    transform = v2.Compose([
        v2.PILToTensor(), v2.ToDtype(torch.float32), v2.Resize(resize, InterpolationMode.BICUBIC, antialias=True),
        v2.CenterCrop(size),
    ])  # fmt: skip
    return transform(Image.open(path).convert("RGB"))


@pytest.mark.parametrize(("resize", "size"), [(256, 224), (232, 224), (40, 32), (28, 28), (33, 28)])
def test_evaluation_is_torchvisions(tree, data, resize, size):
    images = read_folder(tree)
    data = data.model_copy(update={"resize": resize})
    decoded = loader.decode_all(images, data, size, alone())
    for i in range(len(images)):
        expected = torchvision_float(images.file(i), resize, size).clamp(0, 255)
        difference = (decoded[i].float() - expected).abs()
        assert difference.max() < 0.7 and difference.mean() < 0.3, (images.file(i), difference.max())


@pytest.mark.parametrize("batch_size", [1, 4, 50])
@pytest.mark.parametrize("world_size", [1, 2, 23])
def test_evaluation_counts_each_image_once(tree, data, batch_size, world_size):
    images = read_folder(tree)
    ranks = [alone(r, world_size) for r in range(world_size)]
    batches = [b for r in ranks for b in loader.eval_batches(images, data, 32, batch_size, r)]
    assert sorted(torch.cat([b.ids for b in batches]).tolist()) == list(range(len(images)))
    assert all((b.labels.numpy() == images.labels[b.ids]).all() and len(b.images) == len(b.ids) > 0 for b in batches)


def test_the_cache_is_the_direct_path_bit_for_bit(tree, data):
    images = read_folder(tree)
    direct = torch.cat([b.images for b in loader.eval_batches(images, data, 64, 4, alone())])
    cached = loader.normalise(loader.decode_all(images, data, 64, alone()), data)
    assert direct.dtype == torch.float32 and torch.equal(direct, cached)


def test_the_cache_can_lie_in_a_file_that_ranks_share(tree, data, tmp_path):
    images = read_folder(tree)

    def mapped():
        size = len(images) * 3 * 64 * 64
        file = torch.from_file(str(tmp_path / "cache"), shared=True, size=size, dtype=torch.uint8)
        return file.view(-1, 3, 64, 64)

    loader.decode_all(images, data, 64, alone(), out=mapped())
    assert torch.equal(mapped(), loader.decode_all(images, data, 64, alone()))


@pytest.mark.slow
@pytest.mark.parametrize("augment", [Augment(), DEIT], ids=["weak", "deit"])
def test_training_resumes_bitwise_and_ranks_share_one_stream(tree, data, augment):
    images = read_folder(tree)
    whole = take(loader.train_batches(images, data, augment, 32, 6, 7, 0, alone()), 8)  # 3 steps an epoch
    resumed = take(loader.train_batches(images, data, augment, 32, 6, 7, 5, alone()), 3)
    halves = [take(loader.train_batches(images, data, augment, 32, 3, 7, 0, alone(r, 2)), 8) for r in range(2)]
    for a, b in zip(whole[5:], resumed, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    for step, a in enumerate(whole):
        assert all(torch.equal(x, torch.cat([halves[0][step][k], halves[1][step][k]])) for k, x in enumerate(a))
    other_seed = take(loader.train_batches(images, data, augment, 32, 6, 8, 0, alone()), 1)
    assert not torch.equal(whole[0][0], other_seed[0][0])


def test_batches_stay_as_they_were(tree, data):
    """The tensors lie in DALI's memory, which must not be used again, nor go with the pipeline."""
    batches = loader.train_batches(read_folder(tree), data, Augment(), 64, 7, 0, 0, alone())
    kept, copies = [], []
    for batch in itertools.islice(batches, 8):
        kept.append(batch.images)
        copies.append(batch.images.clone())
    batches.close()
    gc.collect()
    take(loader.train_batches(read_folder(tree), data, Augment(), 64, 7, 1, 0, alone()), 8)
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))


def test_training_needs_a_batch_of_images(tree, data):
    with pytest.raises(UserError, match="batch_size: 22 is more than the 21 training images"):
        loader.train_batches(read_folder(tree), data, Augment(), 32, 22, 0, 0, alone())


def test_resize_below_the_image_size_is_refused(tree):
    with pytest.raises(UserError, match=r"data.resize: 100 is below the image size 224"):
        loader.decode_all(read_folder(tree), Data(resize=100), 224, alone())


@pytest.mark.slow
def test_a_small_memory_is_refused(tree, data):
    with pytest.raises(UserError, match=r"search images: .* GiB decoded, .* GiB of memory free"):
        images = read_folder(tree)
        loader.decode_all(images.subset(np.zeros(10**8, dtype=int)), data, 224, alone())


@pytest.mark.slow
def test_a_process_ends_with_pipelines_at_work(tree):
    """Two pipelines are in the middle of an epoch when the program is at its end, and when an error ends it."""
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.helpers.photos import alone
from vitas_ds.config import Augment, Data
from vitas_ds.data import loader
from vitas_ds.data.sources import read_folder
images = read_folder({str(tree)!r})
train = loader.train_batches(images, Data(threads=2), Augment(), 64, 7, 0, 0, alone())
held = loader.eval_batches(images, Data(threads=2), 64, 4, alone())
next(train), next(held), next(train)
if len(sys.argv) > 1:
    raise SystemExit(3)
"""
    for words, status in (([], 0), (["stop"], 3)):
        ended = subprocess.run([sys.executable, "-c", program, *words], timeout=60, capture_output=True, text=True)
        assert (ended.returncode, ended.stdout, ended.stderr) == (status, "", "")
