"""Vision transformer architecture search (ViTAS, arXiv 2106.13700) with DeepSpeed and DALI.

``__all__`` is the public interface: docs/api.md describes it. Other modules may change between versions. A name is
imported when it is first used, because importing ``vitas_ds`` must not import torch.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from vitas_ds.arch.cost import spec_macs, spec_params
    from vitas_ds.arch.published import published
    from vitas_ds.arch.space import SearchSpace
    from vitas_ds.arch.spec import LayerSpec, SubnetSpec, read_spec
    from vitas_ds.errors import UserError
    from vitas_ds.models.extract import extract
    from vitas_ds.models.layers import init_weights
    from vitas_ds.models.supernet import Supernet
    from vitas_ds.models.vit import VisionTransformer
    from vitas_ds.search.custom import search_nets

__version__ = "0.2.0"
__all__ = [
    "LayerSpec", "SearchSpace", "SubnetSpec", "Supernet", "UserError", "VisionTransformer", "extract", "init_weights",
    "load", "published", "read_spec", "search_nets", "spec_macs", "spec_params",
]  # fmt: skip
_MODULES = {
    "LayerSpec": "arch.spec", "SearchSpace": "arch.space", "SubnetSpec": "arch.spec", "Supernet": "models.supernet",
    "UserError": "errors", "VisionTransformer": "models.vit", "extract": "models.extract",
    "init_weights": "models.layers",
    "published": "arch.published", "read_spec": "arch.spec", "search_nets": "search.custom", "spec_macs": "arch.cost",
    "spec_params": "arch.cost",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


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
