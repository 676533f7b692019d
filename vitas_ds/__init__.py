"""Vision transformer architecture search (ViTAS, arXiv 2106.13700) as a large-scale trainer on DeepSpeed and DALI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__version__ = "0.2.0"


def load(directory: str | Path) -> nn.Module:
    """An exported model in evaluation mode: ``images [B, 3, H, W] float -> logits [B, classes]``.

    Raises:
        UserError: the folder is no exported model, or its tensors do not fit its ``spec.json``.
    """
    from vitas_ds.export.folder import read_model  # torch is imported only when it is needed

    return read_model(Path(directory))
