"""Vision transformer architecture search (ViTAS, arXiv 2106.13700) with DeepSpeed and DALI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__version__ = "0.2.0"


def load(directory: str | Path) -> nn.Module:
    """Load an exported model in evaluation mode, on the CPU in fp32.

    Args:
        directory: Folder of the exported model, or ``hf://USER/NAME`` on the Hugging Face hub (``@REVISION`` may
            follow).

    Returns:
        A module that maps images [B, 3, H, W] (float) to logits [B, num_classes].

    Raises:
        UserError: The folder is not an exported model, the tensors do not fit its ``spec.json``, or the hub has no
            such model.
    """
    from vitas_ds.export.folder import read_model  # importing vitas_ds must not import torch
    from vitas_ds.export.hub import local_folder

    return read_model(local_folder(directory))
