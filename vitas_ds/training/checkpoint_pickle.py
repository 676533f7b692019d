"""Load a pickle of DeepSpeed without running code from it, and without allocating more than the file contains.

The files are loaded with ``weights_only``, and stand-ins for the few classes of DeepSpeed in them.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from vitas_ds.errors import UserError
from vitas_ds.errors.reading import check_regular
from vitas_ds.run.torch_files import check_sizes, check_zip


class _Ignored:
    """Stands for an object of DeepSpeed whose content is not needed."""

    def __init__(self, *args: object) -> None:
        pass


_STAND_INS: list[Any] = [
    (int, "deepspeed.runtime.zero.config.ZeroStageEnum"),
    (_Ignored, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (_Ignored, "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler"),
    (_Ignored, "deepspeed.utils.tensor_fragment.fragment_address"),
]


def read_pickle(file: Path, verified: bool = False) -> Any:
    """Return the content of a file of ``torch.save``. Its tensors stay in the file until they are used.

    Args:
        file: The file.
        verified: Whether the file has been compared with a digest. Otherwise, its checksums are verified.

    Raises:
        UserError: The file is damaged, or contains other objects than tensors, numbers and texts.
    """
    try:
        check_regular(file)
        check_zip(file, checksums=not verified)
        with torch.serialization.safe_globals(_STAND_INS):
            content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{file}: not loaded: contains other objects than tensors and numbers ({reason})") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{file}: damaged or unreadable ({reason})") from None
    check_sizes(file, content)
    if not isinstance(content, dict | torch.Tensor):
        raise UserError(f"{file}: not a file of DeepSpeed")
    return content
