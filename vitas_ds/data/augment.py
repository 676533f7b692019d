"""Random numbers of augmentation, drawn with numpy. A batch is a pure function of (seed, step).

The DALI graph (``dali.py``) transforms the pixels and has no randomness of its own. RandomErasing runs after
normalization and is implemented here completely.

Each training image of a run has a slot, ``step * global_batch + position``. Its random numbers are row ``slot`` of an
endless Philox table, so they do not depend on the number of ranks or on where a run was resumed.
"""
# n images, B batch, H and W height and width in pixels

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from vitas_ds.config import Augment

AUGMENT = 0xA06  # tag of the random stream: the second word of Philox's key
COLUMNS = 64  # uniform numbers per slot; a multiple of 4, because one step of Philox's counter yields 4
TRIES = 10  # attempts of RandomResizedCrop and RandomErasing to find a box that fits

# Operations of rand-m9-mstd0.5-inc1 in timm's order; 0: no operation.
AUTO_CONTRAST, EQUALIZE, INVERT, ROTATE, POSTERIZE, SOLARIZE, SOLARIZE_ADD, COLOR = range(1, 9)
CONTRAST, BRIGHTNESS, SHARPNESS, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y = range(9, 16)
LAYERS = 2  # RandAugment operations per image
PERIOD, SHIFT = 2**22, 10007  # RandomErasing: different random numbers, and their offset from slot to slot (odd)

Draws = dict[str, np.ndarray]


def uniforms(seed: int, first: int, count: int) -> np.ndarray:
    """Return rows ``first`` to ``first + count`` of the run's table: [count, COLUMNS] uniform numbers in [0, 1)."""
    bits = np.random.Philox(key=np.array([seed, AUGMENT], dtype=np.uint64), counter=first * COLUMNS // 4)
    return np.random.Generator(bits).random((count, COLUMNS))


def draw(augment: Augment, image_size: int, seed: int, first: int, count: int) -> Draws:
    """Draw the inputs of the DALI graph for slots ``first`` to ``first + count``: arrays [count, ...] by name."""
    u = uniforms(seed, first, count)
    draws = _crop(augment, u[:, :22]) | {"flip": (u[:, 22] < augment.hflip).astype(np.int32)}
    if augment.color_jitter:
        draws |= _jitter(augment.color_jitter, u[:, 56:60])
    if augment.rand_augment:
        for layer in range(LAYERS):
            draws |= _rand_augment(u[:, 46 + 5 * layer : 51 + 5 * layer], image_size, layer)
    return draws


def _crop(augment: Augment, u: np.ndarray) -> Draws:
    """RandomResizedCrop: height and width [n, 2, TRIES] of each attempt in units of sqrt(H * W); position in [0, 1)."""
    area = augment.scale[0] + (augment.scale[1] - augment.scale[0]) * u[:, :TRIES]
    low, high = np.log(augment.ratio)
    ratio = np.exp(low + (high - low) * u[:, TRIES : 2 * TRIES])
    sides = np.stack([np.sqrt(area / ratio), np.sqrt(area * ratio)], axis=1)
    return {"crop": sides, "crop_at": u[:, 20:22].copy()}


def _jitter(strength: float, u: np.ndarray) -> Draws:
    """ColorJitter: factors [n, 3] of brightness, contrast and saturation, and the order [n, 3] of the three."""
    low = max(0.0, 1 - strength)
    orders = np.array([(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)], dtype=np.int32)
    order = orders[(u[:, 3] * 6).astype(int)]
    factors = (low + (1 + strength - low) * u[:, :3]).astype(np.float32)
    draws = {f"jitter_op{i}": order[:, i].copy() for i in range(3)}
    return draws | {f"jitter_factor{i}": factors[np.arange(len(u)), order[:, i]] for i in range(3)}


def _rand_augment(u: np.ndarray, image_size: int, layer: int) -> Draws:
    """One operation per image: its number (0: none), its argument and, if geometric, its matrix.

    Follows timm: one of 15 operations with replacement, applied with probability 0.5, with a magnitude drawn from
    normal(9, 0.5) and clipped to [0, 10].
    """
    chosen = 1 + (u[:, 0] * 15).astype(np.int32)
    normal = np.sqrt(-2 * np.log1p(-u[:, 2])) * np.cos(2 * math.pi * u[:, 3])
    level = np.clip(9 + 0.5 * normal, 0, 10) / 10
    signed = np.where(u[:, 4] < 0.5, level, -level)
    op = np.where(u[:, 1] < 0.5, chosen, 0).astype(np.int32)
    return {
        f"op{layer}": op,
        f"value{layer}": op_value(op, level, signed),
        f"matrix{layer}": op_matrix(op, signed, image_size),
    }


def op_value(op: np.ndarray, level: np.ndarray, signed: np.ndarray) -> np.ndarray:
    """Return the argument [n] float32 of each operation for a level in [0, 1]; ``signed`` is +level or -level."""
    posterize_mask = 256 - 2.0 ** (8 - (4 - np.floor(level * 4)))  # keep 4 - int(4 level) bits
    enhance = np.maximum(0.1, 1 + 0.9 * signed)
    value = np.zeros(len(op))
    value = np.where(op == POSTERIZE, posterize_mask, value)
    value = np.where(op == SOLARIZE, 256 - np.floor(level * 256), value)
    value = np.where(op == SOLARIZE_ADD, np.floor(level * 110), value)
    return np.where(np.isin(op, (COLOR, CONTRAST, BRIGHTNESS, SHARPNESS)), enhance, value).astype(np.float32)


def op_matrix(op: np.ndarray, signed: np.ndarray, image_size: int) -> np.ndarray:
    """Return the destination-to-source matrices [n, 2, 3] float32 of geometric operations; identity for all others.

    The full level is a rotation by 30 degrees about the center, a shear of 0.3, or a shift by 0.45 of the image size.
    """
    matrix = np.zeros((len(op), 2, 3))
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1
    angle = -np.radians(30 * signed)
    cos, sin, center = np.cos(angle), np.sin(angle), image_size / 2
    rotation = np.stack([cos, sin, center * (1 - cos - sin), -sin, cos, center * (1 + sin - cos)], axis=1)
    matrix = np.where((op == ROTATE)[:, None, None], rotation.reshape(-1, 2, 3), matrix)
    matrix[:, 0, 1] += np.where(op == SHEAR_X, 0.3 * signed, 0)
    matrix[:, 1, 0] += np.where(op == SHEAR_Y, 0.3 * signed, 0)
    matrix[:, 0, 2] += np.where(op == TRANSLATE_X, 0.45 * signed * image_size, 0)
    matrix[:, 1, 2] += np.where(op == TRANSLATE_Y, 0.45 * signed * image_size, 0)
    return matrix.astype(np.float32)


def erase_boxes(probability: float, image_size: int, seed: int, first: int, count: int) -> np.ndarray:
    """Draw the boxes of RandomErasing as timm does: [count, 4] int64 (top, left, height, width), zeros for no box.

    The area is 2 % to a third of the image, the aspect ratio 0.3 to 1 / 0.3 (arXiv 1708.04896).
    """
    u = uniforms(seed, first, count)[:, 23:46]
    area = image_size**2 * (0.02 + (1 / 3 - 0.02) * u[:, 1 : 1 + TRIES])
    aspect = np.exp(math.log(0.3) + 2 * math.log(1 / 0.3) * u[:, 1 + TRIES : 1 + 2 * TRIES])
    height, width = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (height < image_size) & (width < image_size)
    first_fit = np.arange(count), fits.argmax(axis=1)
    size = np.stack([height[first_fit], width[first_fit]], axis=1)
    corner = np.floor(u[:, 21:23] * (image_size - size + 1))
    applied = (u[:, 0] < probability) & fits.any(axis=1)
    return (np.concatenate([corner, size], axis=1) * applied[:, None]).astype(np.int64)


def erase(images: Tensor, boxes: np.ndarray, seed: int, slots: Sequence[int]) -> None:
    """Fill ``boxes`` [B, 4] of the normalized ``images`` [B, 3, H, W] in place with standard normal noise.

    ``slots`` are consecutive. The noise is a function of seed, slot and device type. On a GPU, all images take one copy
    and two kernels.
    """
    noise = _noise(images, seed, slots[0])
    if images.device.type == "cpu":
        _erase_each(images, boxes, noise)
    else:
        _erase_together(images, boxes, noise)


def _erase_each(images: Tensor, boxes: np.ndarray, noise: Tensor) -> None:
    """Copy the boxes one by one: the fewest bytes."""
    for i in np.flatnonzero(boxes[:, 2]).tolist():
        top, left, height, width = boxes[i].tolist()
        box = np.s_[i, :, top : top + height, left : left + width]
        images[box] = noise[box]


def _erase_together(images: Tensor, boxes: np.ndarray, noise: Tensor) -> None:
    """Select the pixels of all boxes at once: the fewest calls."""
    torch.where(_box_mask(boxes, images), noise, images, out=images)


def _box_mask(boxes: np.ndarray, images: Tensor) -> Tensor:
    """Return [B, 1, H, W] bool on the device of the images: whether a pixel is in its image's box."""
    size = images.shape[-2:]
    sides = []
    for i, length in enumerate(size):
        first, last = boxes[:, i, None], boxes[:, i, None] + boxes[:, 2 + i, None]
        sides.append((first <= np.arange(length)) & (np.arange(length) < last))
    masks = torch.from_numpy(np.concatenate(sides, axis=1))
    if images.device.type == "cuda":
        masks = masks.pin_memory()  # without this, the copy can wait for the device
    rows, columns = masks.to(images.device, non_blocking=True).split(size, dim=1)
    return rows[:, None, :, None] & columns[:, None, None, :]


def _noise(images: Tensor, seed: int, slot: int) -> Tensor:
    """Return noise for consecutive slots in the shape of ``images``: a view of one table.

    A slot's noise starts SHIFT numbers after that of the slot before, modulo PERIOD. Images of a batch share most of
    their numbers, at different places. Numbers of their own would take a call per image to draw.
    """
    batch, channels, height, width = images.shape
    pixels = channels * height * width
    table = _noise_table(seed, PERIOD + batch * SHIFT + pixels, images.device)
    strides = (SHIFT, height * width, width, 1)
    return table.as_strided((batch, channels, height, width), strides, slot * SHIFT % PERIOD)


@lru_cache(maxsize=2)
def _noise_table(seed: int, length: int, device: torch.device) -> Tensor:
    """Return standard normal numbers [length] that repeat after PERIOD."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(PERIOD, generator=generator, device=device).repeat(-(-length // PERIOD))[:length]
