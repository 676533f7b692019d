"""A digest of the tensors in a safetensors file, in its metadata.

A changed byte in a weight gives no error by itself, only other results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vitas_ds.errors import UserError
from vitas_ds.run.files import tensors_header

KEY = "sha256"  # the only entry of the metadata: safetensors writes several in random order


def metadata_of(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the metadata of a file with these tensors."""
    return {KEY: _digest(tensors)}


def check_digest(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Compare the tensors of a file with its digest. A file without one, from another program, is not verified.

    Raises:
        UserError: A tensor was changed.
    """
    expected = _read(file)
    if expected is not None and _digest(tensors) != expected:
        raise UserError(f"{file} was changed: the SHA-256 of its tensors does not match; restore it")


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(file: Path) -> str | None:
    header = json.loads(tensors_header(file) or "{}")
    return (header.get("__metadata__") or {}).get(KEY)
