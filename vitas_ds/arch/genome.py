"""Genomes: nets of a space as rows of small integers, and what is done to many of them at once. No torch.

Layout ``layer``: patch, embedding, then (operator, q/k/v width, MLP width) of each position, where the operator is
the index of a head count or, one past the last, identity. Layout ``cell``: patch, embedding, heads, q/k/v width, MLP
width, depth. Each gene is an index into the space's choices.
"""
# K nets, G genes, L positions

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vitas_ds.arch.space import Columns, SearchSpace
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.errors import UserError


def _layers(space: SearchSpace, genomes: np.ndarray) -> np.ndarray:
    """View [K, L, 3] of the per-position genes (layout ``layer`` only)."""
    return genomes[:, 2:].reshape(len(genomes), space.depth, 3)


def columns(space: SearchSpace, genomes: np.ndarray) -> Columns:
    """The width table of some genomes [K, G]."""
    genomes = np.asarray(genomes)
    heads = np.array((*space.num_heads, 0))  # 0: identity
    if space.layout == "cell":
        cell = np.broadcast_to(genomes[:, None, 2:5], (len(genomes), space.depth, 3))
        depth = genomes[:, 5:6] + space.fewest_layers
        table = heads[cell[..., 0]] * (np.arange(space.depth) < depth)
    else:
        cell = _layers(space, genomes)
        table = heads[cell[..., 0]]
    used = table > 0
    qkv = np.array(space.qkv_widths)[cell[..., 1]] * used
    mlp = np.array(space.mlp_widths)[cell[..., 2]] * used
    patch, embed = np.array(space.patch_sizes)[genomes[:, 0]], np.array(space.embed_widths)[genomes[:, 1]]
    return Columns(space.image_size, space.num_classes, patch, embed, table, qkv, mlp)


def decode(space: SearchSpace, genome: np.ndarray) -> SubnetSpec:
    """The spec of one genome [G], identity positions kept where they are."""
    return decode_all(space, np.asarray(genome)[None])[0]


def decode_all(space: SearchSpace, genomes: np.ndarray) -> list[SubnetSpec]:
    """The specs of some genomes [K, G]. Layers that are alike are one object."""
    genomes = np.asarray(genomes)
    if space.layout == "cell":
        layers = np.repeat(space.layer_choices[tuple(genomes[:, 2:5].T)][:, None], space.depth, 1)
        layers[np.arange(space.depth) >= genomes[:, 5:6] + space.fewest_layers] = None
    else:
        layers = space.layer_choices[tuple(np.moveaxis(_layers(space, genomes), 2, 0))]
    stems = zip(genomes[:, 0].tolist(), genomes[:, 1].tolist(), layers.tolist(), strict=True)
    size, classes, patches, embeds = space.image_size, space.num_classes, space.patch_sizes, space.embed_widths
    return [SubnetSpec(size, patches[p], embeds[e], classes, tuple(rows)) for p, e, rows in stems]


def encode(space: SearchSpace, spec: SubnetSpec) -> np.ndarray:
    """The genome [G] of a spec; a spec of fewer layers than positions gets identities at the deep end.

    Raises:
        UserError: the spec is not a net of this space; the line names the field and what is allowed.
    """
    return encode_all(space, [spec])[0]


def _positions(space: SearchSpace, spec: SubnetSpec) -> tuple[LayerSpec | None, ...]:
    return spec.layers if len(spec.layers) <= space.depth else spec.active


def _misfit(space: SearchSpace, spec: SubnetSpec) -> UserError:
    """The first field of a spec that the space does not hold."""
    fields: list[tuple[str, object, Sequence[object]]] = [
        ("image_size", spec.image_size, (space.image_size,)),
        ("num_classes", spec.num_classes, (space.num_classes,)),
        ("depth", spec.depth, range(space.fewest_layers, space.depth + 1)),
        ("patch_size", spec.patch_size, space.patch_sizes),
        ("embed_dim", spec.embed_dim, space.embed_widths),
    ]
    for i, layer in enumerate(_positions(space, spec)):
        if layer is not None:
            fields.append((f"layers[{i}].softmax_scale", layer.softmax_scale, (None,)))
            fields.append((f"layers[{i}].num_heads", layer.num_heads, space.num_heads))
            fields.append((f"layers[{i}].qkv_dim", layer.qkv_dim, space.qkv_widths))
            fields.append((f"layers[{i}].mlp_dim", layer.mlp_dim, space.mlp_widths))
    field, value, allowed = next(told for told in fields if told[1] not in told[2])
    return UserError(f"the spec does not fit the space: {field} {value} is not one of {list(allowed)}")


def encode_all(space: SearchSpace, specs: Sequence[SubnetSpec]) -> np.ndarray:
    """The genomes [K, G] of some specs, as ``encode`` gives them. Raises ``UserError`` as it does."""
    numbers = np.array([_numbers(space, spec) for spec in specs], dtype=np.int64).reshape(-1, 2 + space.depth)
    stems, layers = numbers[:, :2], numbers[:, 2:]
    if space.layout == "cell":
        cells, depths = np.array([_only_cell(row) for row in layers], int), (layers > 0).sum(1, keepdims=True)
        return np.concatenate([stems, space.layer_indices[cells], depths - space.fewest_layers], 1)
    return np.concatenate([stems, space.layer_indices[layers].reshape(len(specs), 3 * space.depth)], 1)


def _numbers(space: SearchSpace, spec: SubnetSpec) -> list[int]:
    """Indices of patch size and width, then each position's row in ``space.layer_indices``: identity is 0."""
    known, fewest = space.layer_numbers, space.fewest_layers
    try:
        rows = [known[layer] for layer in _positions(space, spec)]
        stem = [space.patch_sizes.index(spec.patch_size), space.embed_widths.index(spec.embed_dim)]
    except (KeyError, ValueError):
        raise _misfit(space, spec) from None
    same = spec.image_size == space.image_size and spec.num_classes == space.num_classes
    if not (same and fewest <= len(rows) - rows.count(0) <= space.depth):
        raise _misfit(space, spec)
    return stem + rows + [0] * (space.depth - len(rows))


def _only_cell(row: np.ndarray) -> int:
    """The one layer that all positions repeat, or a ``UserError``."""
    cells = np.unique(row[row > 0])
    if len(cells) != 1:
        raise UserError("the spec does not fit the space: space.layout is cell, but its layers are not all alike")
    return int(cells[0])


def canonical(space: SearchSpace, genomes: np.ndarray) -> np.ndarray:
    """Identity shifting (ViTAS, ECCV 2022; this form is ours): [K, G] with identities moved to the deep end.

    The order of the other layers stays, and the unused width genes of an identity become 0, so that two genomes of
    the same network are equal rows. Idempotent; changes no cost.
    """
    genomes = np.array(genomes)  # a copy
    if space.layout == "cell" or not space.identity:
        return genomes
    layers = _layers(space, genomes)
    skipped = layers[..., 0] == len(space.num_heads)
    layers[skipped, 1:] = 0
    order = np.argsort(skipped, axis=1, kind="stable")
    genomes[:, 2:] = np.take_along_axis(layers, order[..., None], axis=1).reshape(len(genomes), -1)
    return genomes


def sample(space: SearchSpace, rng: np.random.Generator, count: int, identity_prob: float | None = None) -> np.ndarray:
    """``count`` random genomes [K, G].

    Each gene is uniform, but for identity, which each position takes with ``identity_prob`` (None: as likely as each
    head count). Nets with fewer than ``space.min_depth`` layers get back, at random positions, as many as they lack.
    With ``space.identity_shift`` the rows are canonical. In layout ``cell`` the depth is binomial with the same
    probability (None: uniform).
    """
    genomes = rng.integers(0, space.gene_sizes, (count, len(space.gene_sizes)))
    if not space.identity:
        return genomes
    if space.layout == "cell":
        if identity_prob is not None:
            kept = rng.random((count, space.depth)) >= identity_prob
            genomes[:, 5] = np.maximum(kept.sum(1), space.fewest_layers) - space.fewest_layers
        return genomes
    layers = _layers(space, genomes)
    if identity_prob is None:
        identity_prob = 1 / (len(space.num_heads) + 1)
    layers[..., 0] = rng.integers(0, len(space.num_heads), (count, space.depth))
    draw = rng.random((count, space.depth))
    kept_rank = np.argsort(np.argsort(-draw, axis=1), axis=1)  # 0 for the position most surely kept
    skipped = (draw < identity_prob) & (kept_rank >= space.min_depth)
    layers[skipped, 0] = len(space.num_heads)
    genomes[:, 2:] = layers.reshape(count, -1)
    return canonical(space, genomes) if space.identity_shift else genomes


def smallest(space: SearchSpace) -> np.ndarray:
    """The genome [G] of the fewest layers and narrowest widths, with the largest patch; the cheapest head count."""
    return _extreme(space, largest=False)


def largest(space: SearchSpace) -> np.ndarray:
    """The genome [G] of all layers at full width, with the smallest patch and the most heads."""
    return _extreme(space, largest=True)


def _extreme(space: SearchSpace, largest: bool) -> np.ndarray:
    positions = space.depth if largest else space.fewest_layers
    widths = (space.qkv_widths, space.mlp_widths, space.num_heads)
    qkv, mlp, heads = (w[-1 if largest else 0] for w in widths)
    patch = space.patch_sizes[0 if largest else -1]
    embed = space.embed_widths[-1 if largest else 0]
    layers = (LayerSpec(heads, qkv, mlp),) * positions
    return encode(space, SubnetSpec(space.image_size, patch, embed, space.num_classes, layers))


def count_nets(space: SearchSpace) -> int:
    """Number of distinct networks: identity positions do not count twice (canonical form)."""
    stem = len(space.patch_sizes) * len(space.embed_widths)
    layer = len(space.num_heads) * len(space.qkv_widths) * len(space.mlp_widths)
    depths = range(space.fewest_layers, space.depth + 1)
    return stem * sum(layer if space.layout == "cell" else layer**depth for depth in depths)
