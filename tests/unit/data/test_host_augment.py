"""Compare the augmentation on CPUs with timm's and torchvision's functions on Pillow images, bit for bit."""

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment as timm_aug
from torchvision.transforms import functional as tv

from tests.helpers.photos import photo_crop
from vitas_ds.config import Augment
from vitas_ds.data import augment as aug
from vitas_ds.data import host_augment
from vitas_ds.data.normalize import normalize_pixels
from vitas_ds.data.processing import Recipe

SIZE = 96
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILL = (124, 116, 104)
FULL = Augment(rand_augment="rand-m9-mstd0.5-inc1", color_jitter=0.4)
PHOTO = photo_crop(np.random.default_rng(1), SIZE, SIZE)
NAMES = dict(enumerate(timm_aug._RAND_INCREASING_TRANSFORMS, start=1))
# our matrices are float32, which moves a sample by up to 1e-5 pixels and can change a rounding
WARPS = (aug.ROTATE, aug.SHEAR_X, aug.SHEAR_Y, aug.TRANSLATE_X, aug.TRANSLATE_Y)


def augment_photo(draws):
    pixels = torch.from_numpy(np.array(PHOTO)).permute(2, 0, 1)
    return host_augment.augment(pixels, draws, FILL).permute(1, 2, 0).numpy().astype(int)


def timm_operation(image, op, level, sign, monkeypatch):
    """Apply timm's operation for a level in [0, 1] to a Pillow image."""
    monkeypatch.setattr(timm_aug, "_randomly_negate", lambda value: sign * value)
    level_fn = timm_aug.LEVEL_TO_ARG[NAMES[op]]
    args = level_fn(10 * level, {}) if level_fn else ()
    if op == aug.POSTERIZE:  # timm's function crashes at random with Pillow 13
        return Image.fromarray(np.asarray(image) & np.uint8(256 - 2 ** (8 - args[0])))
    function = timm_aug.NAME_TO_OP[NAMES[op]]
    return function(image, *args, fillcolor=FILL, resample=Image.Resampling.BILINEAR)


def draws_of(op, level, sign, layer=0):
    ops, levels = np.array([op], np.int32), np.array([level])
    draws = {
        "op": ops, "value": aug.op_value(ops, levels, sign * levels), "matrix": aug.op_matrix(ops, sign * levels, SIZE),
    }  # fmt: skip
    return {f"{name}{layer}": rows[0] for name, rows in draws.items()}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("level", [0.75, 0.9, 1.0])
@pytest.mark.parametrize("op", NAMES, ids=NAMES.values())
def test_operation_equals_timm(op, level, sign, monkeypatch):
    found = augment_photo(draws_of(op, level, sign))
    difference = np.abs(found - np.asarray(timm_operation(PHOTO, op, level, sign, monkeypatch)))
    if op in WARPS:
        assert difference.max() <= 1 and difference.mean() < 0.03
    else:
        assert not difference.any()


def test_layers_are_applied_in_order(monkeypatch):
    draws = draws_of(aug.COLOR, 0.9, 1, 0) | draws_of(aug.SOLARIZE, 0.6, 1, 1)
    first = timm_operation(PHOTO, aug.COLOR, 0.9, 1, monkeypatch)
    expected = timm_operation(first, aug.SOLARIZE, 0.6, 1, monkeypatch)
    assert (augment_photo(draws) == np.asarray(expected)).all()


def test_color_jitter_equals_torchvision():
    order, factors = (2, 0, 1), (1.3, 0.7, 1.2)
    draws = {f"jitter_op{i}": np.array(op) for i, op in enumerate(order)}
    draws |= {f"jitter_factor{i}": np.array(factor) for i, factor in enumerate(factors)}
    expected = PHOTO
    for op, factor in zip(order, factors, strict=True):
        expected = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation)[op](expected, factor)
    assert (augment_photo(draws) == np.asarray(expected)).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_a_batch_equals_single_images(threads):
    draws = aug.draw(FULL, SIZE, 0, 0, 8)
    crops = [torch.from_numpy(np.array(photo_crop(np.random.default_rng(i), 60 + 10 * i, 80))) for i in range(8)]
    found = host_augment.process(crops, draws, Recipe(SIZE, MEAN, STD, augment=FULL), threads)
    assert len(set(draws["flip"].tolist())) == 2
    for i, crop in enumerate(crops):
        row = {name: rows[i] for name, rows in draws.items()}
        image = host_augment.augment(host_augment.resize(crop, SIZE), row, FILL)
        expected = tv.hflip(image) if draws["flip"][i] else image
        assert torch.equal(found[i], normalize_pixels(expected, MEAN, STD))
