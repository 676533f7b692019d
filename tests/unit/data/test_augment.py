"""Compare each operation of the augmentation with timm and torchvision on Pillow images. Tolerances are of 255."""

import itertools

import numpy as np
import pytest
import torch
from nvidia.dali import fn, pipeline_def, types
from PIL import Image
from timm.data import auto_augment as timm_aug
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import functional as tv

from tests.benchmarks.call_counter import CallCounter
from tests.helpers.photos import cpu_rank, photo_crop, take
from vitas_ds.config import Augment, Mixing
from vitas_ds.data import augment as aug
from vitas_ds.data import dali, dali_augment, dali_crop, loader, mixing, point_ops
from vitas_ds.data.sources import read_folder

SIZE = 224
MEAN = (0.485, 0.456, 0.406)
FILL = (124, 116, 104)  # the mean color, as in timm's create_transform
PHOTOS = [photo_crop(np.random.default_rng(i), SIZE, SIZE) for i in range(6)]
NAMES = dict(enumerate(timm_aug._RAND_INCREASING_TRANSFORMS, start=1))
GEOMETRIC = (aug.ROTATE, aug.SHEAR_X, aug.SHEAR_Y, aug.TRANSLATE_X, aug.TRANSLATE_Y)
# limits of the mean and of the largest difference
TOLERANCE = {
    aug.AUTO_CONTRAST: (0.1, 1), aug.EQUALIZE: (0.6, 1), aug.SHARPNESS: (0.6, 3),
    aug.COLOR: (0.05, 1), aug.CONTRAST: (0.05, 1), aug.BRIGHTNESS: (0.05, 1), **dict.fromkeys(GEOMETRIC, (0.6, 3)),
}  # fmt: skip


def run_graph(function, photos, inputs):
    """Run the graph ``function(image, *inputs)`` on Pillow images; ``inputs`` are arrays with one row per image."""
    sources = [[np.asarray(photo) for photo in photos], *(list(rows) for rows, _ in inputs)]
    kinds = [types.UINT8, *(kind for _, kind in inputs)]
    ndims = [3, *(rows.ndim - 1 for rows, _ in inputs)]

    @pipeline_def(enable_conditionals=True, batch_size=len(photos), num_threads=1, device_id=None)
    def graph():
        nodes = fn.external_source(lambda: sources, num_outputs=len(kinds), dtype=kinds, ndim=ndims)
        return function(fn.reshape(nodes[0], layout="HWC"), *nodes[1:])

    (out,) = graph().run()
    return [np.asarray(out.at(i)).astype(int) for i in range(len(photos))]


def apply_ours(op, settings):
    """Apply operation ``op`` to each photograph with each (level in [0, 1], sign), in one pipeline."""
    photos = PHOTOS * len(settings)
    ops = np.full(len(photos), op, dtype=np.int32)
    levels, signs = (np.repeat(values, len(PHOTOS)) for values in zip(*settings, strict=True))
    return run_layer(photos, ops, aug.op_value(ops, levels, signs * levels), aug.op_matrix(ops, signs * levels, SIZE))


def run_layer(photos, *draws):
    """Run the graph of one RandAugment operation per image."""
    parameters = point_ops.layer_inputs(*draws)
    inputs = [(parameters[name], dali.TYPES[name][0]) for name in point_ops.LAYER]

    def graph(image, *nodes):
        layer = {name: nodes[i] for i, name in enumerate(point_ops.LAYER)}
        return dali_augment.rand_augment(image, layer, MEAN, SIZE)

    return run_graph(graph, photos, inputs)


def apply_timm(op, level, sign, monkeypatch):
    monkeypatch.setattr(timm_aug, "_randomly_negate", lambda value: sign * value)
    level_fn = timm_aug.LEVEL_TO_ARG[NAMES[op]]
    args = level_fn(10 * level, {}) if level_fn else ()
    if op == aug.POSTERIZE:  # timm's function crashes at random with Pillow 13
        return [np.asarray(p) & (256 - 2 ** (8 - args[0])) for p in PHOTOS]
    function = timm_aug.NAME_TO_OP[NAMES[op]]
    return [np.asarray(function(p, *args, fillcolor=FILL, resample=Image.Resampling.BILINEAR)) for p in PHOTOS]


@pytest.mark.parametrize("op", NAMES, ids=NAMES.values())
def test_operation_equals_timm(op, monkeypatch):
    mean_limit, limit = TOLERANCE.get(op, (0, 0))
    settings = list(itertools.product((0.75, 0.9, 1.0), (1, -1)))  # (level, sign)
    expected = [image for level, sign in settings for image in apply_timm(op, level, sign, monkeypatch)]
    for found, reference, photo in zip(apply_ours(op, settings), expected, PHOTOS * len(settings), strict=True):
        difference = np.abs(found - reference)
        if op == aug.SHARPNESS:  # Pillow does not change the outermost pixels
            difference = difference[1:-1, 1:-1]
        assert difference.mean() <= mean_limit, f"mean {difference.mean():.3f}, largest {difference.max()}"
        assert difference.max() <= limit
        assert (found != np.asarray(photo)).mean() > 0.2 or op in (aug.AUTO_CONTRAST, aug.EQUALIZE)


def test_op_0_keeps_the_image():
    for found, photo in zip(apply_ours(0, [(0.9, 1)]), PHOTOS, strict=True):
        assert (found == np.asarray(photo)).all()


def test_auto_contrast_keeps_a_constant_image():
    flat = [Image.new("RGB", (SIZE, SIZE), (7, 0, 255))]
    op = np.array([aug.AUTO_CONTRAST], np.int32)
    (out,) = run_layer(flat, op, aug.op_value(op, np.ones(1), np.ones(1)), aug.op_matrix(op, np.ones(1), SIZE))
    assert (out == np.asarray(flat[0])).all()


@pytest.mark.parametrize(
    ("op", "function"), [(0, tv.adjust_brightness), (1, tv.adjust_contrast), (2, tv.adjust_saturation)]
)
@pytest.mark.parametrize("factor", [0.6, 0.85, 1.4])
def test_color_jitter_equals_torchvision(op, function, factor):
    n = len(PHOTOS)
    inputs = [(point_ops.jitter_map(np.full(n, op), np.full(n, factor)), types.FLOAT)]
    for found, photo in zip(run_graph(dali_augment.jitter, PHOTOS, inputs), PHOTOS, strict=True):
        assert np.abs(found - np.asarray(function(photo, factor))).max() <= 1


def test_rand_augment_is_distributed_as_in_timm():
    draws = aug._rand_augment(aug.uniforms(0, 0, 150_000)[:, 46:51], 224, 0)
    op, value = draws["op0"], draws["value0"]
    assert np.bincount(op, minlength=16) / len(op) == pytest.approx([0.5] + [0.5 / 15] * 15, abs=0.002)
    solarize = 256 - value[op == aug.SOLARIZE]  # int(25.6 * magnitude): known to 1 / 25.6
    magnitude = solarize / 25.6
    expected = np.clip(np.random.default_rng(0).normal(9, 0.5, 10**6), 0, 10)
    assert magnitude.mean() + 0.5 / 25.6 == pytest.approx(expected.mean(), abs=0.03)
    assert magnitude.std() == pytest.approx(expected.std(), abs=0.03)
    color = value[op == aug.COLOR]
    assert (color > 1).mean() == pytest.approx(0.5, abs=0.03) and color.min() >= np.float32(0.1)


def test_layers_are_independent():
    draws = aug.draw(Augment(rand_augment="rand-m9-mstd0.5-inc1", color_jitter=0.4), 224, 0, 0, 20_000)
    both = (draws["op0"] > 0) & (draws["op1"] > 0)
    assert both.mean() == pytest.approx(0.25, abs=0.015)
    assert (draws["op0"][both] == draws["op1"][both]).mean() == pytest.approx(1 / 15, abs=0.015)
    assert draws["flip"].mean() == pytest.approx(0.5, abs=0.015)
    for i in range(3):
        assert np.bincount(draws[f"jitter_op{i}"]) / 20_000 == pytest.approx([1 / 3] * 3, abs=0.015)
        factor = draws[f"jitter_factor{i}"]
        assert 0.6 <= factor.min() < 0.61 and 1.39 < factor.max() <= 1.4


def plain_crop(draws, row, height, width, ratio):
    """Compute torchvision's RandomResizedCrop.get_params from the same draws, as a loop."""
    side = (height * width) ** 0.5
    for h_factor, w_factor in draws["crop"][row].T:
        h, w = round(h_factor * side), round(w_factor * side)
        if 0 < w <= width and 0 < h <= height:
            y, x = draws["crop_at"][row]
            return int(y * (height - h + 1)), int(x * (width - w + 1)), h, w
    h, w = min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 1.0), (1.0, 1.0)])
def test_weak_recipe_equals_torchvision(tree, data, scale, threads):
    """Crop, bicubic resize and flip equal v2 on uint8 pixels bitwise, for the same boxes."""
    images, augment = read_folder(tree), Augment(scale=scale, random_erasing=0)
    threaded = data.model_copy(update={"threads": threads})
    batches = loader.train_batches(images, threaded, augment, SIZE, 7, 3, 0, cpu_rank())
    for step, (pixels, _, ids) in enumerate(take(batches, 6)):
        draws = aug.draw(augment, SIZE, 3, 7 * step, 7)
        for row, i in enumerate(ids.tolist()):
            image = v2.functional.pil_to_tensor(Image.open(images.file(i)).convert("RGB"))
            box = plain_crop(draws, row, *image.shape[1:], augment.ratio)
            expected = v2.functional.resized_crop(image, *box, [SIZE, SIZE], InterpolationMode.BICUBIC, antialias=True)
            expected = expected.flip(2) if draws["flip"][row] else expected
            assert torch.equal(pixels[row], loader.normalize(expected[None], data)[0]), (box, image.shape)


@pytest.mark.parametrize("size", [(224, 224), (500, 375), (330, 97), (61, 64), (640, 200)])
def test_gpu_resize_is_close_to_torchvision(size):
    """Compare the resize operator of GPU training, run on the CPU, with v2 on float pixels."""
    photos = [photo_crop(np.random.default_rng(i), *size) for i in range(3)]
    for found, photo in zip(run_graph(lambda image: dali_crop.resize(image, SIZE), photos, []), photos, strict=True):
        image = v2.functional.pil_to_tensor(photo).float()
        reference = v2.functional.resize(image, [SIZE, SIZE], InterpolationMode.BICUBIC, antialias=True).clamp(0, 255)
        difference = np.abs(found - reference.permute(1, 2, 0).numpy())[3:-3, 3:-3]  # DALI repeats the border pixels
        assert difference.mean() < 0.4 and (difference > 1).mean() < 0.02


def test_crops_are_distributed_as_in_torchvision():
    augment, height, width = Augment(), 300, 400
    draws = aug.draw(augment, 224, 0, 0, 4000)
    found = np.array([plain_crop(draws, row, height, width, augment.ratio) for row in range(4000)])
    torch.manual_seed(0)
    blank = torch.empty(3, height, width)
    crop = v2.RandomResizedCrop(224, augment.scale, augment.ratio)
    reference = np.array(
        [[crop.make_params([blank])[k] for k in ("top", "left", "height", "width")] for _ in range(4000)]
    )
    for column in range(4):
        quantiles = np.linspace(0.05, 0.95, 10)
        assert np.quantile(found[:, column], quantiles) == pytest.approx(
            np.quantile(reference[:, column], quantiles), abs=14
        )


def test_erasing_is_distributed_as_in_timm():
    boxes = aug.erase_boxes(0.25, 64, 0, 0, 20_000)
    erased = boxes[boxes[:, 2] > 0]
    assert len(erased) / len(boxes) == pytest.approx(0.25, abs=0.01)
    assert (erased[:, 0] + erased[:, 2]).max() <= 64 and (erased[:, 1] + erased[:, 3]).max() <= 64
    timm_erasing = RandomErasing(probability=1, mode="pixel", max_count=1, device="cpu")
    shares = []
    for _ in range(8000):  # the deciles of so many boxes vary by about 0.003
        image = torch.full((3, 64, 64), 99.0)
        timm_erasing(image)
        shares.append((image[0] != 99).float().mean().item())
    found = erased[:, 2] * erased[:, 3] / 64**2
    quantiles = np.linspace(0.1, 0.9, 9)
    assert np.quantile(found, quantiles) == pytest.approx(np.quantile(shares, quantiles), abs=0.02)


def test_erase_fills_only_the_box_with_unit_noise():
    images = torch.full((4, 3, 64, 64), 9.0)
    boxes = np.array([[0, 0, 0, 0], [3, 5, 40, 50], [0, 0, 0, 0], [10, 10, 50, 30]])
    aug.erase(images, boxes, 1, range(100, 104))
    assert (images[[0, 2]] == 9).all()
    noise = images[1, :, 3:43, 5:55]
    assert noise.mean().abs() < 0.05 and (noise.std() - 1).abs() < 0.05
    assert (images[1] == 9).sum() == 3 * (64 * 64 - 40 * 50)
    single = torch.full((1, 3, 64, 64), 9.0)
    aug.erase(single, boxes[3:], 1, [103])
    assert torch.equal(single[0], images[3])  # the noise depends on the slot, not on the position in the batch


def test_noise_is_normal_and_differs_between_slots():
    images = torch.zeros(64, 3, 32, 32)
    noise = aug._noise(images, 5, 1000)
    assert noise.mean().abs() < 0.01 and (noise.std() - 1).abs() < 0.01
    together = noise.reshape(64, -1)
    assert (torch.corrcoef(together) - torch.eye(64)).abs().max() < 0.1
    # the last slots before the table repeats, and the first ones after it
    wrap = aug.PERIOD // aug.SHIFT - 1
    for slot in range(wrap, wrap + 4):
        single = aug._noise(images[:1], 5, slot)
        assert torch.equal(single[0], aug._noise(images, 5, wrap)[slot - wrap])
    assert not torch.equal(aug._noise(images, 6, 1000), noise)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_erasing_and_mixing_take_at_most_8_kernels(kind):
    """Count the calls of the path for GPUs. The copy of the masks from pinned memory is not a kernel."""
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16)
    boxes, noise = aug.erase_boxes(0.9, 32, 0, 0, 16), aug._noise(images, 0, 0)
    config = Mixing(**{kind: 0.8})
    mixing.mix(images, labels, config, 100, 0, 0, 0)  # fills the cache of targets
    with CallCounter() as counter:
        aug._erase_together(images, boxes, noise)
        mixing.mix(images, labels, config, 100, 0, 0, 0)
    assert counter.calls.total() <= 8, counter.calls


def test_erasing_together_equals_erasing_each():
    images = torch.randn(32, 3, 40, 40)
    boxes, noise, copy = aug.erase_boxes(0.5, 40, 0, 0, 32), aug._noise(images, 0, 0), images.clone()
    aug._erase_together(images, boxes, noise)
    aug._erase_each(copy, boxes, noise)
    assert torch.equal(images, copy)


def test_rows_of_the_table_do_not_depend_on_the_first_row():
    whole = aug.uniforms(3, 0, 40)
    assert (whole[17:29] == aug.uniforms(3, 17, 12)).all()
    assert (whole != aug.uniforms(4, 0, 40)).all() and len(np.unique(whole)) == whole.size
