"""Parameters of the augmentation in the GPU graph, computed with numpy from the drawn operations.

The graph (``dali_augment.py``) runs one fixed sequence of operators on every image. The parameters decide its
effect; with the neutral ones, a step returns its input exactly. Most operations become three affine maps of the
channels of a pixel, each followed by rounding and clipping to 0 ... 255:

    pixel [3] --first--> [6] --second--> [6] --third--> [3]

The three additional channels hold intermediate values of an operation. Clipping makes the sequence more than one
affine map: 255 (x - t + 1) becomes 0 below the threshold t and 255 from t on, and with this s, solarize is the sum of
clip(x - s) and clip(s - x).
"""
# n images; a map of C to D channels is a matrix [D, C + 1] whose last column is added

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vitas_ds.data import augment as aug

LUMA = np.array([19595, 38470, 7471]) / 65536  # Pillow's weights of R, G and B
TRUNCATE = -0.499  # added before rounding: the result is truncated instead, as in Pillow
GRAY = 3  # channel of the luma
CONSTANT = -1  # the added column
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13  # Pillow's filter of this name
# parameters of one RandAugment operation: see the fields of ``layer_inputs``
LAYER = ("warp", "kernel", "first", "stretch", "equalize", "average", "second", "third", "bits")

Arrays = dict[str, Any]


def graph_inputs(draws: Mapping[str, Any]) -> Arrays:
    """Replace the operations of ``augment.draw`` by the parameters of the GPU graph."""
    inputs = {name: value for name, value in draws.items() if not name.startswith(("op", "value", "matrix", "jitter"))}
    for i in range(3):
        if f"jitter_op{i}" in draws:
            inputs[f"jitter{i}"] = jitter_map(draws[f"jitter_op{i}"], draws[f"jitter_factor{i}"])
    for layer in range(aug.LAYERS):
        if f"op{layer}" in draws:
            found = layer_inputs(draws[f"op{layer}"], draws[f"value{layer}"], draws[f"matrix{layer}"])
            inputs |= {f"{name}{layer}": value for name, value in found.items()}
    return inputs


def jitter_map(op: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Return the maps [n, 3, 6] from (pixel, luma, mean luma) of brightness (op 0), contrast (1) and saturation (2)."""
    maps = np.zeros((len(op), 3, 6), dtype=np.float32)
    maps[:, range(3), range(3)] = factor[:, None]
    maps[:, :, 3] = np.where(op == 2, 1 - factor, 0)[:, None]
    maps[:, :, 4] = np.where(op == 1, 1 - factor, 0)[:, None]
    maps[:, :, CONSTANT] = TRUNCATE
    return maps


def layer_inputs(op: np.ndarray, value: np.ndarray, matrix: np.ndarray) -> Arrays:
    """Return the parameters of one RandAugment operation per image.

    Args:
        op: Operations [n]; 0 keeps the image.
        value: Their arguments [n], from ``augment.op_value``.
        matrix: Matrices of the warp [n, 2, 3], from ``augment.op_matrix``.

    Returns:
        In the order of the graph:

        - ``warp`` [n, 2, 3], destination to source.
        - ``kernel`` [n, 3, 3] of a filter.
        - ``first`` [n, 6, 4], ``second`` [n, 6, 7], ``third`` [n, 3, 7]: maps of the channels.
        - ``stretch`` and ``equalize`` [n] bool: whether to apply them between the first and the second map.
        - ``average`` [n, 6] uint8: 255 for a channel replaced by its mean.
        - ``bits`` [n] uint8: bits of the pixels to keep.
    """
    kernel = np.zeros((len(op), 3, 3))
    kernel[:, 1, 1] = 1
    factor = value[:, None, None]
    kernel = np.where((op == aug.SHARPNESS)[:, None, None], SMOOTH * (1 - factor) + kernel * factor, kernel)
    average = np.zeros((len(op), 6), dtype=np.uint8)
    average[op == aug.CONTRAST, GRAY] = 255
    first, second, third = _maps(op, value)
    return {
        "warp": matrix,
        "kernel": kernel.astype(np.float32),
        "first": first,
        "stretch": op == aug.AUTO_CONTRAST,
        "equalize": op == aug.EQUALIZE,
        "average": average,
        "second": second,
        "third": third,
        "bits": np.where(op == aug.POSTERIZE, value, 255).astype(np.uint8),
    }


def _maps(op: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the three maps of the channels. A slice of one matrix diagonal is written as an index of three entries."""
    n, rgb, more = len(op), range(3), range(3, 6)
    first, second, third = (np.zeros((n, *shape), dtype=np.float32) for shape in ((6, 4), (6, 7), (3, 7)))
    first[:, rgb, rgb] = second[:, range(6), range(6)] = third[:, rgb, rgb] = 1

    for at in np.flatnonzero(np.isin(op, (aug.COLOR, aug.CONTRAST, aug.BRIGHTNESS))):  # f x + (1 - f) gray
        third[at, rgb, rgb], third[at, :, CONSTANT] = value[at], TRUNCATE
        if op[at] != aug.BRIGHTNESS:
            first[at, GRAY, rgb] = LUMA
            third[at, :, GRAY] = 1 - value[at]
            second[at, GRAY, GRAY] = op[at] == aug.COLOR  # contrast: the mean takes its place

    for at in np.flatnonzero(np.isin(op, (aug.SOLARIZE, aug.SOLARIZE_ADD))):  # s = 255 where x >= threshold, else 0
        threshold = value[at] if op[at] == aug.SOLARIZE else 128
        first[at, more, rgb], first[at, 3:, CONSTANT] = 255, 255 * (1 - threshold)
        third[at, rgb, more] = 1
        if op[at] == aug.SOLARIZE:  # (x - s) + (s - x), each clipped
            second[at, rgb, more], second[at, more, rgb] = -1, -1
        else:  # x + value (1 - s / 255)
            second[at, more, more], second[at, 3:, CONSTANT] = -value[at] / 255, value[at]

    stretch = op == aug.AUTO_CONTRAST  # of (x, 255 - x), it returns (255 - stretched x, stretched x)
    first[np.ix_(stretch, more, rgb)] = -np.eye(3)
    first[stretch, 3:, CONSTANT] = 255
    third[np.ix_(stretch, rgb, range(6))] = np.eye(3, 6, 3)

    # Pillow accumulates the histogram from 0, DALI from 255: equalize the negative
    equalize = op == aug.EQUALIZE
    for chosen, negative in ((equalize, first), (equalize | (op == aug.INVERT), third)):
        negative[np.ix_(chosen, rgb, rgb)] = -np.eye(3)
        negative[chosen, :3, CONSTANT] = 255
    return first, second, third
