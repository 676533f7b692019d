"""Evaluation equals torchvision; training equals a second run, a run with other ranks, and a resumed run."""

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
from tests.helpers.photos import cpu_rank, take
from vitas_ds.config import Augment, Data
from vitas_ds.data import loader
from vitas_ds.data.sources import read_folder
from vitas_ds.errors import UserError
from vitas_ds.training.accuracy import measure_accuracy

DEIT = Augment(color_jitter=0.3, rand_augment="rand-m9-mstd0.5-inc1", random_erasing=0.5, aug_repeats=3)


def torchvision_float(path, resize, size):
    """Apply v2 to float pixels in 0 ... 255, without rounding."""
    transform = v2.Compose([
        v2.PILToTensor(), v2.ToDtype(torch.float32), v2.Resize(resize, InterpolationMode.BICUBIC, antialias=True),
        v2.CenterCrop(size),
    ])  # fmt: skip
    return transform(Image.open(path).convert("RGB"))


@pytest.mark.parametrize(("resize", "size"), [(256, 224), (232, 224), (40, 32), (28, 28), (33, 28)])
def test_evaluation_equals_torchvision(tree, data, resize, size):
    images = read_folder(tree)
    data = data.model_copy(update={"resize": resize})
    decoded = loader.decode_all(images, data, size, cpu_rank())
    for i in range(len(images)):
        expected = torchvision_float(images.file(i), resize, size).clamp(0, 255)
        difference = (decoded[i].float() - expected).abs()
        assert difference.max() < 0.7 and difference.mean() < 0.3, (images.file(i), difference.max())


@pytest.mark.parametrize("batch_size", [1, 4, 50])
@pytest.mark.parametrize("world_size", [1, 2, 23])
def test_evaluation_yields_each_image_once(tree, data, batch_size, world_size):
    images = read_folder(tree)
    ranks = [cpu_rank(r, world_size) for r in range(world_size)]
    batches = [b for r in ranks for b in loader.eval_batches(images, data, 32, batch_size, r)]
    assert sorted(torch.cat([b.ids for b in batches]).tolist()) == list(range(len(images)))
    assert all((b.labels.numpy() == images.labels[b.ids]).all() and len(b.images) == len(b.ids) > 0 for b in batches)


def test_decoded_images_equal_eval_batches_bitwise(tree, data):
    images = read_folder(tree)
    direct = torch.cat([b.images for b in loader.eval_batches(images, data, 64, 4, cpu_rank())])
    cached = loader.normalize(loader.decode_all(images, data, 64, cpu_rank()), data)
    assert direct.dtype == torch.float32 and torch.equal(direct, cached)


def test_images_can_be_decoded_into_a_shared_file(tree, data, tmp_path):
    images = read_folder(tree)

    def mapped():
        size = len(images) * 3 * 64 * 64
        file = torch.from_file(str(tmp_path / "cache"), shared=True, size=size, dtype=torch.uint8)
        return file.view(-1, 3, 64, 64)

    loader.decode_all(images, data, 64, cpu_rank(), out=mapped())
    assert torch.equal(mapped(), loader.decode_all(images, data, 64, cpu_rank()))


@pytest.mark.slow
@pytest.mark.parametrize("augment", [Augment(), DEIT], ids=["weak", "deit"])
def test_training_is_bitwise_equal_after_a_resume_and_for_other_ranks(tree, data, augment):
    images = read_folder(tree)
    uninterrupted = take(loader.train_batches(images, data, augment, 32, 6, 7, 0, cpu_rank()), 8)  # 3 steps per epoch
    resumed = take(loader.train_batches(images, data, augment, 32, 6, 7, 5, cpu_rank()), 3)
    halves = [take(loader.train_batches(images, data, augment, 32, 3, 7, 0, cpu_rank(r, 2)), 8) for r in range(2)]
    for a, b in zip(uninterrupted[5:], resumed, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    for step, a in enumerate(uninterrupted):
        assert all(torch.equal(x, torch.cat([halves[0][step][k], halves[1][step][k]])) for k, x in enumerate(a))
    other_seed = take(loader.train_batches(images, data, augment, 32, 6, 8, 0, cpu_rank()), 1)
    assert not torch.equal(uninterrupted[0][0], other_seed[0][0])


def test_batches_are_not_overwritten(tree, data):
    """The tensors use DALI's memory. It must not be reused, or freed with the pipeline."""
    batches = loader.train_batches(read_folder(tree), data, Augment(), 64, 7, 0, 0, cpu_rank())
    kept, copies = [], []
    for batch in itertools.islice(batches, 8):
        kept.append(batch.images)
        copies.append(batch.images.clone())
    batches.close()
    gc.collect()
    take(loader.train_batches(read_folder(tree), data, Augment(), 64, 7, 1, 0, cpu_rank()), 8)
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))


def test_training_needs_a_full_batch(tree, data):
    with pytest.raises(UserError, match="batch_size: 22 is more than the 21 training images"):
        loader.train_batches(read_folder(tree), data, Augment(), 32, 22, 0, 0, cpu_rank())


def test_resize_below_the_image_size_is_refused(tree):
    with pytest.raises(UserError, match=r"data.resize: 100 is below the image size 224"):
        loader.decode_all(read_folder(tree), Data(resize=100), 224, cpu_rank())


@pytest.mark.slow
def test_too_little_memory_is_refused(tree, data):
    images = read_folder(tree)
    many = images.subset(np.zeros(10**7, dtype=int))
    with pytest.raises(UserError, match=r"^search images: .* GiB decoded, .* GiB of memory free; lower data\.search"):
        loader.decode_all(many, data, 224, cpu_rank())
    with pytest.raises(UserError, match=r"^held-out images: .* GiB decoded, .*; lower retrain\.eval_images$"):
        measure_accuracy(many, data, 224, cpu_rank(), every=1, averaged=False)


@pytest.mark.slow
def test_a_process_exits_while_pipelines_run(tree):
    """Two pipelines are in the middle of an epoch when the program ends, normally or with an error."""
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.helpers.photos import cpu_rank
from vitas_ds.config import Augment, Data
from vitas_ds.data import loader
from vitas_ds.data.sources import read_folder
images = read_folder({str(tree)!r})
train = loader.train_batches(images, Data(threads=2), Augment(), 64, 7, 0, 0, cpu_rank())
held = loader.eval_batches(images, Data(threads=2), 64, 4, cpu_rank())
next(train), next(held), next(train)
if len(sys.argv) > 1:
    raise SystemExit(3)
"""
    for arguments, status in (([], 0), (["stop"], 3)):
        ended = subprocess.run([sys.executable, "-c", program, *arguments], timeout=60, capture_output=True, text=True)
        assert (ended.returncode, ended.stdout, ended.stderr) == (status, "", "")
