"""Check that the tensors of a file fit a network."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vitas_ds.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def check_shapes(where: str, found: Shapes, expected: Shapes) -> None:
    """Check the names and shapes of the tensors in a file.

    Args:
        where: Start of the error message: the file, and the network that its tensors do not fit.
        found: Shapes in the file.
        expected: Shapes in the network.

    Raises:
        UserError: The message names the first missing tensor, else the first extra one, else the first misshapen one.
    """
    for name in expected:
        if name not in found:
            raise UserError(f"{where}: tensor {name} is missing")
    for name in found:
        if name not in expected:
            raise UserError(f"{where}: unexpected tensor {name}")
    for name, shape in expected.items():
        if found[name] != shape:
            raise UserError(f"{where}: tensor {name} has shape {_text(found[name])}, expected {_text(shape)}")


def check_finite(where: str, tensors: Mapping[str, Tensor]) -> None:
    """Check that all weights are finite: a network with NaN or infinities gives no error, only wrong results.

    Args:
        where: Start of the error message.
        tensors: Tensors by name.

    Raises:
        UserError: The message names the first such tensor.
    """
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(f"{where}: tensor {name} contains non-finite values")


def _text(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
