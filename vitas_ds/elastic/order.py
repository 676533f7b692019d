"""A permutation of the units of a network, and its file. Importing this module does not import torch."""
# D embed_dim, h num_heads, d head_dim, a = h * d, m mlp_dim

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.elastic.scores import LayerScores, Scores, Values
from vitas_ds.errors import UserError, first_error
from vitas_ds.errors.reading import read_bytes
from vitas_ds.models.channels import centered_ranks
from vitas_ds.run.files import write_json

NAME = "order.json"  # in the folder of a reordered model
REORDERED = "units"  # row of its model card
Permutation = tuple[int, ...]  # unit i of the new network is unit p[i] of the old one


@dataclass(frozen=True)
class LayerOrder:
    """Permutations of the channels of q and k [a], of v [a], and of the hidden units of the MLP [m].

    Whole heads move: channels of one head stay together, and q, k and v have the same order of heads.
    """

    qk: Permutation
    v: Permutation
    mlp: Permutation

    @property
    def permutations(self) -> tuple[Permutation, ...]:
        """The three permutations."""
        return self.qk, self.v, self.mlp


@dataclass(frozen=True)
class Order:
    """Permutations of a network: of the channels of the residual stream [D], and those of each layer."""

    embedding: Permutation
    layers: tuple[LayerOrder, ...]

    def inverse(self) -> Order:
        """Return the order that restores the network before this one."""
        return Order(_inverse(self.embedding), tuple(LayerOrder(*map(_inverse, x.permutations)) for x in self.layers))

    def after(self, first: Order) -> Order:
        """Return one order equivalent to ``first`` followed by this one."""
        layers = (
            LayerOrder(*map(_compose, old.permutations, new.permutations))
            for old, new in zip(first.layers, self.layers, strict=True)
        )
        return Order(_compose(first.embedding, self.embedding), tuple(layers))


def _inverse(permutation: Permutation) -> Permutation:
    return tuple(np.argsort(permutation).tolist())


def _compose(first: Permutation, second: Permutation) -> Permutation:
    return tuple(first[i] for i in second)


def by_importance(scores: Scores, spec: SubnetSpec) -> Order:
    """Return the order from the most to the least important unit; equal ones keep their order.

    The channels of each head are sorted too: a narrow head has the first ones.
    """
    layers = (_layer_order(x, layer) for x, layer in zip(scores.layers, spec.active, strict=True))
    return Order(tuple(_sorted(scores.embedding)), tuple(layers))


def drop_order(scores: Scores) -> tuple[int, ...]:
    """Return the layers from the one that changes its input least."""
    return tuple(np.argsort([layer.change for layer in scores.layers], kind="stable").tolist())


def centered(order: Order, space: SearchSpace) -> Order:
    """Return an order from the most to the least important unit as one for centered sides, see ``channels``.

    The channels of a head stay sorted: both sides use the first ones.
    """

    def layer(x: LayerOrder) -> LayerOrder:
        ranks = np.array(centered_ranks(space.num_heads))
        qk, v = (tuple(np.reshape(p, (len(ranks), -1))[ranks].ravel().tolist()) for p in (x.qk, x.v))
        return LayerOrder(qk, v, _compose(x.mlp, centered_ranks(space.mlp_widths)))

    return Order(_compose(order.embedding, centered_ranks(space.embed_widths)), tuple(map(layer, order.layers)))


def _layer_order(scores: LayerScores, layer: LayerSpec) -> LayerOrder:
    heads = _sorted(scores.heads)
    channels = (
        [head * layer.head_dim + c for head in heads for c in _sorted(_of_head(values, head, layer.head_dim))]
        for values in (scores.qk, scores.v)
    )
    qk, v = (tuple(x) for x in channels)
    return LayerOrder(qk, v, tuple(_sorted(scores.mlp)))


def _of_head(values: Values, head: int, head_dim: int) -> Values:
    return values[head * head_dim : (head + 1) * head_dim]


def _sorted(values: Sequence[float]) -> list[int]:
    return np.argsort(-np.asarray(values), kind="stable").tolist()


def check_order(order: Order, spec: SubnetSpec, where: str) -> None:
    """Check that an order fits a network and moves whole heads.

    Raises:
        UserError: It does not.
    """
    sizes = [(len(x.qk), len(x.v), len(x.mlp)) for x in order.layers]
    expected = [(layer.attn_dim, layer.attn_dim, layer.mlp_dim) for layer in spec.active]
    lists = [order.embedding, *(p for x in order.layers for p in x.permutations)]
    fits = sizes == expected and len(order.embedding) == spec.embed_dim
    if not fits or any(sorted(p) != list(range(len(p))) for p in lists):
        raise UserError(f"{where}: not permutations of the units of this network")
    for i, (x, layer) in enumerate(zip(order.layers, spec.active, strict=True)):
        heads = [np.reshape(p, (layer.num_heads, layer.head_dim)) // layer.head_dim for p in (x.qk, x.v)]
        if not all((h == heads[0][:, :1]).all() for h in heads):
            raise UserError(f"{where}: layers[{i}]: the channels of a head do not stay together")


def write_order(folder: Path, order: Order) -> None:
    """Write the order and its inverse beside a reordered model."""
    write_json(folder / NAME, {"order": asdict(order), "inverse": asdict(order.inverse())})


def read_order(folder: Path, spec: SubnetSpec) -> Order | None:
    """Return the order of a reordered model; None if the folder has none.

    Raises:
        UserError: The file is damaged, or does not fit the network.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        found = TypeAdapter(dict[str, Order]).validate_json(read_bytes(path))
        order, inverse = found["order"], found["inverse"]
    except ValidationError as error:
        raise UserError(f"{path}: {first_error(error)}") from None
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]} is missing") from None
    check_order(order, spec, str(path))
    if order.inverse() != inverse:
        raise UserError(f"{path}: damaged: the inverse does not belong to the order")
    return order
