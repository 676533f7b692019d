"""Random images instead of files: a function of the seed, for training, search and evaluation."""

import itertools

import numpy as np
import torch

from tests.helpers.paths import FIXTURES
from tests.helpers.photos import cpu_rank
from vitas_ds.config import Augment
from vitas_ds.data import loader, synthetic
from vitas_ds.data.sources import hold_out
from vitas_ds.recipe import load

AUGMENT = Augment(random_erasing=0.5, rand_augment="rand-m9-mstd0.5-inc1")


def config(*overrides):
    return load(str(FIXTURES / "tiny.yaml"), ["data.synthetic=true", *overrides])


def first_batches(images, cfg, batch_size, ranks, count=3, start=0):
    batches = loader.train_batches(images, cfg.data, AUGMENT, 28, batch_size, cfg.run.seed, start, ranks)
    return list(itertools.islice(batches, count))


def test_sets_have_the_classes_of_the_recipe_and_a_batch_besides_the_search_images():
    cfg = config("supernet.batch_size=3000")
    train, search = hold_out(synthetic.training_images(cfg), cfg.data.search_per_class, cfg.run.seed)
    val = synthetic.validation_images(cfg)
    assert train.classes == search.classes == val.classes and len(val.classes) == 10
    assert len(train) >= 3000 and len(search) == 10 * cfg.data.search_per_class
    assert not set(train.paths) & set(search.paths) and not set(train.paths) & set(val.paths)
    assert (np.bincount(val.labels) == synthetic.VAL_PER_CLASS).all()


def test_training_depends_on_seed_and_step_only():
    cfg = config()
    images = synthetic.training_images(cfg)
    whole = first_batches(images, cfg, 16, cpu_rank())
    for step, batch in enumerate(whole):
        parts = [first_batches(images, cfg, 8, cpu_rank(rank, 2), start=step, count=1)[0] for rank in range(2)]
        assert torch.equal(batch.images, torch.cat([part.images for part in parts]))
        assert torch.equal(batch.labels, torch.cat([part.labels for part in parts]))
    other = config("run.seed=9")
    assert not torch.equal(first_batches(synthetic.training_images(other), other, 16, cpu_rank())[0].images,
                           whole[0].images)  # fmt: skip


def test_batches_can_be_changed_in_place():
    cfg = config()
    images = synthetic.training_images(cfg)
    first_batches(images, cfg, 16, cpu_rank())[0].images.zero_()
    again = first_batches(images, cfg, 16, cpu_rank())[0].images
    assert again.std() > 0.3


def test_decoded_images_equal_eval_batches():
    cfg = config()
    images = synthetic.validation_images(cfg)
    direct = torch.cat([b.images for b in loader.eval_batches(images, cfg.data, 28, 7, cpu_rank())])
    decoded = loader.decode_all(images, cfg.data, 28, cpu_rank())
    assert decoded.dtype == torch.uint8 and decoded.float().std() > 60
    assert torch.equal(loader.normalize(decoded, cfg.data), direct)
