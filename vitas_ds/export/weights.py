"""Read the weights of other programs: ``.safetensors``, or a file of ``torch.save``. No code of a file is executed."""

from __future__ import annotations

import argparse
import re
import warnings
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from vitas_ds.errors import UserError
from vitas_ds.errors.reading import check_regular
from vitas_ds.models.shapes import Shapes, check_finite
from vitas_ds.run.torch_files import check_sizes, check_zip

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # keys of training checkpoints; averages first
MAX_NAMES = 3  # tensors that an error names


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a file as float32, and the key of the checkpoint they were under, or "".

    A prefix ``module.`` of all names, which data-parallel training adds, is removed.

    Raises:
        UserError: The file cannot be read, or contains something other than float32 or float64 tensors.
    """
    content = load_safetensors(path) if path.suffix == ".safetensors" else load_torch(path)
    key = next((k for k in WRAPPERS if isinstance(content, dict) and isinstance(content.get(k), dict)), "")
    tensors = content[key] if key else content
    if not isinstance(tensors, dict) or not tensors or not all(isinstance(v, Tensor) for v in tensors.values()):
        raise UserError(f"{path}: not a state dict: expected tensors by name, or such a dict under the key 'model'")
    check_sizes(path, tensors)
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.float64) and not name.endswith("num_batches_tracked"):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{path}: tensor {name} is {kind}; half-precision and quantized weights are not supported")
    check_finite(str(path), tensors)
    prefix = "module." if all(name.startswith("module.") for name in tensors) else ""
    return {name.removeprefix(prefix): tensor.float() for name, tensor in tensors.items()}, key


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        check_regular(path)
        return load(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a safetensors file, or damaged ({error})") from None


def load_torch(path: Path) -> Any:
    """Return the content of a file of ``torch.save``: tensors, plain containers and numbers.

    Raises:
        UserError: The file cannot be read, or contains other objects.
    """
    try:
        check_regular(path)
        check_zip(path)
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # torch.load raises many types of exceptions if the file is not a checkpoint
        found = re.search(r"(?i)unsupported (?:global|class)\W+(?:GLOBAL )?(\S+)", str(error))
        if found:
            raise UserError(f"{path}: contains objects other than tensors, which are not loaded: {found[1]}") from None
        raise UserError(f"{path}: not a torch checkpoint, or damaged ({type(error).__name__})") from None


def check_names(where: str, found: Shapes, expected: Shapes) -> None:
    """Check the names of the tensors in a file, and suggest the closest ones.

    Args:
        where: Start of the error message.
        found: Shapes in the file.
        expected: Shapes in the network.

    Raises:
        UserError: Tensors are missing, or there are others.
    """
    missing, extra = [name for name in expected if name not in found], sorted(found.keys() - expected.keys())
    for kind, names, others in (("missing", missing, extra), ("unexpected", extra, missing)):
        if names:
            close = get_close_matches(names[0], others, 1)
            place = "one in the file" if kind == "missing" else "missing one"
            hint = f"; the closest {place} is {close[0]}" if close else ""
            more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
            raise UserError(f"{where}: {kind} tensors: {', '.join(names[:MAX_NAMES])}{more}{hint}")
