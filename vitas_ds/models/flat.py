"""Flat parameters: many named tensors in few parameters.

Optimizers and ZeRO work per parameter, so a supernet keeps all tensors of a sampling unit in one of them. Only the
memory layout changes: ``state_dict`` and ``named_tensors`` contain the tensors under their own names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Place:
    """Where a named tensor is: ``shape`` elements of ``parameter``, from element ``offset``."""

    parameter: nn.Parameter
    offset: int
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def view(self) -> Tensor:
        """Return the tensor as a view of the parameter. Under ZeRO 3, the parameter must be gathered."""
        return self.within(self.parameter)

    def within(self, values: Tensor) -> Tensor:
        """Return the same range of a tensor of the parameter's size, such as its gradient, in the tensor's shape."""
        return values.view(-1)[self.offset : self.offset + self.numel].view(self.shape)


class FlatModule(nn.Module):
    """A module whose tensors are ranges of flat parameters.

    Attributes:
        ranges: Parameter, first element and shape of each tensor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ranges: dict[str, tuple[str, int, tuple[int, ...]]] = {}

    def add_flat(self, parameter: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Add a parameter that holds tensors of these shapes: first those with weight decay, which are not vectors."""
        offset = 0
        for name, shape in sorted(shapes.items(), key=lambda item: len(item[1]) == 1):
            self.ranges[name] = parameter, offset, shape
            offset += math.prod(shape)
        self.register_parameter(parameter, nn.Parameter(torch.empty(offset)))

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function that uses the parameters. ZeRO 3 gathers them for the time of a module's forward pass."""
        return function(*args)

    def flat_parameters(self) -> list[Tensor]:
        """Return the flat parameters of this module, without its submodules."""
        return [getattr(self, name) for name in dict.fromkeys(parameter for parameter, _, _ in self.ranges.values())]

    def places(self) -> dict[str, Place]:
        """Return the place of each tensor of this module, without its submodules."""
        return {name: Place(getattr(self, p), offset, shape) for name, (p, offset, shape) in self.ranges.items()}

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name, place in self.places().items():
            if _is_partitioned(place):  # only the shape is known
                destination[prefix + name] = torch.empty(place.shape, device="meta")
                continue
            view = place.view()
            destination[prefix + name] = view if keep_vars else view.detach()

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Any, strict: bool, missing_keys: list[str],
        unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        places = self.places()
        if local_metadata.get("assign_to_params_buffers"):
            error_msgs.append(f"{prefix}: assign=True is not possible, because tensors share a flat parameter")
        for name, place in places.items():
            value = state_dict.get(prefix + name)
            if value is not None and value.is_meta and _is_partitioned(place):
                continue  # DeepSpeed restores the part of each rank itself
            if value is None:
                missing_keys.append(prefix + name)
            elif tuple(value.shape) != place.shape:
                error_msgs.append(f"{prefix}{name} has shape {tuple(value.shape)}, expected {place.shape}")
            else:
                with torch.no_grad():
                    place.view().copy_(value)
        names = (key[len(prefix) :] for key in state_dict if key.startswith(prefix))
        unexpected_keys += [
            prefix + name for name in names if name not in places and name.split(".")[0] not in self._modules
        ]


def _is_partitioned(place: Place) -> bool:
    """Return whether ZeRO 3 has partitioned the parameter, which is then empty."""
    return place.parameter.numel() < place.offset + place.numel


def tensor_places(model: nn.Module) -> dict[str, Place]:
    """Return the place of every named tensor of a network. An ordinary parameter is one tensor."""
    places: dict[str, Place] = {}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(module, FlatModule):
            found = module.places()
        else:
            found = {name: Place(p, 0, tuple(p.shape)) for name, p in module.named_parameters(recurse=False)}
        places |= {prefix + name: place for name, place in found.items()}
    return places


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return all named tensors of a network, as views of its parameters."""
    return {name: place.view() for name, place in tensor_places(model).items()}
