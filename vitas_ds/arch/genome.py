"""Genomes: networks of a search space encoded as rows of small integers.

Layout ``layer``: patch size, embed_dim, then (operator, q/k/v width, MLP width) of each position. The operator is the
index of a head count; the index after the last one is the identity. In an elastic space, the number of identities
determines where they are (``canonical``). Layout ``cell``: patch size, embed_dim, heads,
q/k/v width, MLP width, depth. Each gene is an index into the choices of the space. Importing this module does not
import torch.
"""
# K networks, G genes, L positions

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vitas_ds.arch.elastic import NETWORK, swap_into
from vitas_ds.arch.space import SearchSpace, WidthTable
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.errors import UserError


def _layer_genes(space: SearchSpace, genomes: np.ndarray) -> np.ndarray:
    """Return a view [K, L, 3] of the genes of each position (layout ``layer`` only)."""
    return genomes[:, 2:].reshape(len(genomes), space.depth, 3)


def width_table(space: SearchSpace, genomes: np.ndarray) -> WidthTable:
    """Return the widths of genomes [K, G]."""
    genomes = np.asarray(genomes)
    heads_by_gene = np.array((*space.num_heads, 0))  # 0: identity
    if space.layout == "cell":
        layers = np.broadcast_to(genomes[:, None, 2:5], (len(genomes), space.depth, 3))
        depth = genomes[:, 5:6] + space.min_layers
        num_heads = heads_by_gene[layers[..., 0]] * (np.arange(space.depth) < depth)
    else:
        layers = _layer_genes(space, genomes)
        num_heads = heads_by_gene[layers[..., 0]]
    active = num_heads > 0
    qkv_dim = 3 * space.attn_table[layers[..., 0], layers[..., 1]] * active
    mlp_dim = np.array(space.mlp_widths)[layers[..., 2]] * active
    patch_size = np.array(space.patch_sizes)[genomes[:, 0]]
    embed_dim = np.array(space.embed_widths)[genomes[:, 1]]
    widths = patch_size, embed_dim, num_heads, qkv_dim, mlp_dim
    return WidthTable(space.image_size, space.num_classes, *widths, **space.elastic.costs)


def decode(space: SearchSpace, genome: np.ndarray) -> SubnetSpec:
    """Decode one genome [G]. Identity positions are kept."""
    return decode_all(space, np.asarray(genome)[None])[0]


def decode_all(space: SearchSpace, genomes: np.ndarray) -> list[SubnetSpec]:
    """Decode genomes [K, G]. Equal layers are the same object."""
    genomes = np.asarray(genomes)
    if space.layout == "cell":
        layers = np.repeat(space.layer_choices[tuple(genomes[:, 2:5].T)][:, None], space.depth, 1)
        layers[np.arange(space.depth) >= genomes[:, 5:6] + space.min_layers] = None
    else:
        layers = space.layer_choices[tuple(np.moveaxis(_layer_genes(space, genomes), 2, 0))]
    image_size, num_classes = space.image_size, space.num_classes
    patch_sizes, embed_widths = space.patch_sizes, space.embed_widths
    network = space.elastic.network
    rows = zip(genomes[:, 0].tolist(), genomes[:, 1].tolist(), layers.tolist(), strict=True)
    return [
        SubnetSpec(image_size, patch_sizes[patch], embed_widths[embed], num_classes, tuple(row), **network)
        for patch, embed, row in rows
    ]


def encode(space: SearchSpace, spec: SubnetSpec) -> np.ndarray:
    """Encode a spec as a genome [G]. Missing positions become identities at the end.

    Raises:
        UserError: The spec is not a network of this space. The message names the field and the allowed values.
    """
    return encode_all(space, [spec])[0]


def encode_all(space: SearchSpace, specs: Sequence[SubnetSpec]) -> np.ndarray:
    """Encode specs as genomes [K, G], see ``encode``."""
    ids = np.array([_stem_and_layer_ids(space, spec) for spec in specs], dtype=np.int64).reshape(-1, 2 + space.depth)
    stems, layer_ids = ids[:, :2], ids[:, 2:]
    if space.layout == "cell":
        cell_ids = np.array([_single_layer_id(row) for row in layer_ids], int)
        depths = (layer_ids > 0).sum(1, keepdims=True)
        return np.concatenate([stems, space.layer_gene_table[cell_ids], depths - space.min_layers], 1)
    return np.concatenate([stems, space.layer_gene_table[layer_ids].reshape(len(specs), 3 * space.depth)], 1)


def _stem_and_layer_ids(space: SearchSpace, spec: SubnetSpec) -> list[int]:
    """Return the genes of patch size and embed_dim, then the ``space.layer_ids`` of all positions."""
    layer_ids = space.layer_ids
    try:
        ids = [layer_ids[layer] for layer in space.positions(spec.layers)]
        stem = [space.patch_sizes.index(spec.patch_size), space.embed_widths.index(spec.embed_dim)]
    except (KeyError, ValueError):
        raise _misfit(space, spec) from None
    same_task = spec.image_size == space.image_size and spec.num_classes == space.num_classes
    same_network = all(getattr(spec, name) == value for name, value in _network(space).items())
    if not (same_task and same_network and space.min_layers <= len(ids) - ids.count(0) <= space.depth):
        raise _misfit(space, spec)
    return stem + ids + [0] * (space.depth - len(ids))


def _single_layer_id(layer_ids: np.ndarray) -> int:
    """Return the id of the layer that all positions repeat (layout ``cell``)."""
    distinct = np.unique(layer_ids[layer_ids > 0])
    if len(distinct) != 1:
        raise UserError("the spec does not fit the space: space.layout is cell, but the layers of the spec differ")
    return int(distinct[0])


def _network(space: SearchSpace) -> dict[str, object]:
    """Return the fields of a spec without choices. Other spaces do not compare eps: imported networks differ."""
    names = NETWORK if space.elastic.on else NETWORK[:-2]
    return {name: getattr(space.elastic, name) for name in names}


def _misfit(space: SearchSpace, spec: SubnetSpec) -> UserError:
    """Return the error for the first field of a spec whose value the space does not allow."""
    fields: list[tuple[str, object, Sequence[object]]] = [
        ("image_size", spec.image_size, (space.image_size,)),
        ("num_classes", spec.num_classes, (space.num_classes,)),
        ("depth", spec.depth, range(space.min_layers, space.depth + 1)),
        ("patch_size", spec.patch_size, space.patch_sizes),
        ("embed_dim", spec.embed_dim, space.embed_widths),
        *((name, getattr(spec, name), (value,)) for name, value in _network(space).items()),
    ]
    for i, layer in enumerate(space.positions(spec.layers)):
        if layer is not None:
            similar = [x for x in space.layer_genes if x and x.num_heads == layer.num_heads]
            scales = {x.softmax_scale: None for x in similar if x.qkv_dim == layer.qkv_dim}
            fields.append((f"layers[{i}].num_heads", layer.num_heads, space.num_heads))
            fields.append((f"layers[{i}].qkv_dim", layer.qkv_dim, list({x.qkv_dim: None for x in similar})))
            fields.append((f"layers[{i}].mlp_dim", layer.mlp_dim, space.mlp_widths))
            fields.append((f"layers[{i}].softmax_scale", layer.softmax_scale, list(scales)))
    name, value, allowed = next(field for field in fields if field[1] not in field[2])
    return UserError(f"the spec does not fit the space: {name} {value} is not one of {list(allowed)}")


def canonical(space: SearchSpace, genomes: np.ndarray) -> np.ndarray:
    """Move the identities of genomes [K, G] behind the last layer (identity shifting, ViTAS, ECCV 2022; our variant).

    The order of the other layers does not change. The unused width genes of an identity become 0, and genomes of the
    same network become equal rows. The function is idempotent and changes no cost. In an elastic space, identities move
    to the layers dropped at their depth, and the layers there take the free places.
    """
    genomes = np.array(genomes)  # a copy
    if space.layout == "cell" or not space.identity:
        return genomes
    layers = _layer_genes(space, genomes)
    identity = layers[..., 0] == len(space.num_heads)
    layers[identity, 1:] = 0
    if space.elastic.on:
        swap_into(layers, identity, space.active_positions, (len(space.num_heads), 0, 0))
        genomes[:, 2:] = layers.reshape(len(genomes), -1)
        return genomes
    order = np.argsort(identity, axis=1, kind="stable")
    genomes[:, 2:] = np.take_along_axis(layers, order[..., None], axis=1).reshape(len(genomes), -1)
    return genomes


def sample(space: SearchSpace, rng: np.random.Generator, count: int, identity_prob: float | None = None) -> np.ndarray:
    """Draw ``count`` random genomes [K, G].

    All genes are uniform except the identity, which each position takes with probability ``identity_prob`` (None: the
    probability of each head count). If fewer than ``space.min_depth`` layers remain, random positions become layers
    again. If the space is ``nested``, the genomes are canonical. In layout ``cell`` the depth is binomial with the
    same probability (None: uniform).
    """
    genomes = rng.integers(0, space.gene_sizes, (count, len(space.gene_sizes)))
    if not space.identity:
        return genomes
    if space.layout == "cell":
        if identity_prob is not None:
            active = rng.random((count, space.depth)) >= identity_prob
            genomes[:, 5] = np.maximum(active.sum(1), space.min_layers) - space.min_layers
        return genomes
    layers = _layer_genes(space, genomes)
    if identity_prob is None:
        identity_prob = 1 / (len(space.num_heads) + 1)
    layers[..., 0] = rng.integers(0, len(space.num_heads), (count, space.depth))
    draw = rng.random((count, space.depth))
    keep_rank = np.argsort(np.argsort(-draw, axis=1), axis=1)  # 0: the position with the largest draw
    identity = (draw < identity_prob) & (keep_rank >= space.min_depth)
    layers[identity, 0] = len(space.num_heads)
    genomes[:, 2:] = layers.reshape(count, -1)
    return canonical(space, genomes) if space.nested else genomes


def smallest(space: SearchSpace) -> np.ndarray:
    """Return the genome [G] with the fewest layers, narrowest widths, largest patches and fewest heads."""
    return _extreme(space, largest=False)


def largest(space: SearchSpace) -> np.ndarray:
    """Return the genome [G] with all layers at full width, the smallest patches and the most heads."""
    return _extreme(space, largest=True)


def _extreme(space: SearchSpace, largest: bool) -> np.ndarray:
    positions = space.depth if largest else space.min_layers
    heads, width = (len(space.num_heads) - 1, -1) if largest else (0, 0)
    layer: LayerSpec = space.layer_choices[heads, width, width]
    patch_size, embed_dim = space.patch_sizes[0 if largest else -1], space.embed_widths[width]
    layers = (layer,) * positions
    spec = SubnetSpec(
        space.image_size, patch_size, embed_dim, space.num_classes, layers, **space.elastic.network
    )  # fmt: skip
    return encode(space, spec)


def count_subnets(space: SearchSpace) -> int:
    """Count the distinct networks of a space. Genomes with the same canonical form are one network."""
    stem = len(space.patch_sizes) * len(space.embed_widths)
    layer = len(space.num_heads) * space.attn_table.shape[1] * len(space.mlp_widths)
    depths = range(space.min_layers, space.depth + 1)
    return stem * sum(layer if space.layout == "cell" else layer**depth for depth in depths)
