"""The importance of every unit of a network, and its file. Importing this module does not import torch."""
# D embed_dim, h num_heads, a = qkv_dim / 3, m mlp_dim

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.errors import UserError, first_error
from vitas_ds.errors.reading import read_bytes
from vitas_ds.run.files import write_json

Values = tuple[float, ...]


@dataclass(frozen=True)
class LayerScores:
    """Importance of the units of a layer; see ``importance`` for the definitions.

    Attributes:
        heads: Loss change without each head [h].
        qk: Loss change without each channel of q [a]; with it, a channel of k has no effect.
        v: Loss change without each channel of v [a].
        mlp: Loss change without each hidden unit [m].
        change: Mean over tokens of 1 - cos(input, output) of the layer.
        attn_change: The same of its attention branch.
        mlp_change: The same of its MLP branch.
    """

    heads: Values
    qk: Values
    v: Values
    mlp: Values
    change: float
    attn_change: float
    mlp_change: float


@dataclass(frozen=True)
class Scores:
    """Importance of all units of a network, and the inputs of the measurement.

    Attributes:
        weights: SHA-256 of the weights.
        data: SHA-256 of names and labels of the images.
        images: Number of images.
        loss: ``labels`` or ``views``.
        embedding: Activation norm of each channel of the residual stream [D].
        layers: One entry per layer.
    """

    weights: str
    data: str
    images: int
    loss: str
    embedding: Values
    layers: tuple[LayerScores, ...]


def write_scores(path: Path, scores: Scores) -> None:
    """Write the scores as JSON, atomically."""
    write_json(path, asdict(scores))


def read_scores(path: Path) -> Scores:
    """Read a file of ``write_scores``.

    Raises:
        UserError: The file is missing or has another content.
    """
    try:
        return TypeAdapter(Scores).validate_json(read_bytes(path))
    except ValidationError as error:
        raise UserError(f"{path}: not a file of vitas importance: {first_error(error)}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def check_scores(path: Path, scores: Scores, spec: SubnetSpec, weights: str) -> None:
    """Check that scores are those of a network.

    Args:
        path: Their file, for error messages.
        scores: The scores.
        spec: The network.
        weights: SHA-256 of its weights.

    Raises:
        UserError: They were measured with other weights, or have other sizes.
    """
    sizes = [(len(x.heads), 3 * len(x.v), len(x.mlp)) for x in scores.layers]
    if (
        scores.weights != weights
        or len(scores.embedding) != spec.embed_dim
        or sizes != [(layer.num_heads, layer.qkv_dim, layer.mlp_dim) for layer in spec.active]
    ):
        raise UserError(f"{path}: measured with other weights; start importance again for this model")
