"""Import and warm up everything once: a forked process then starts a stage at once."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import vitas_ds

LIBRARIES = (
    "deepspeed.runtime.zero.utils", "matplotlib.backends.backend_agg", "matplotlib.figure", "matplotlib.pyplot",
    "nvidia.dali.fn", "pymoo.algorithms.soo.nonconvex.ga", "timm", "torch._dynamo", "torch._inductor.compile_fx",
)  # fmt: skip


def preload(folder: Path) -> None:
    """Import the package and its libraries, convert DALI's graphs and load the fonts; start no threads.

    Args:
        folder: Where the picture goes whose text loads the fonts.
    """
    import torch

    torch.set_num_threads(1)  # a forked process would wait for the threads of its parent
    for module in pkgutil.walk_packages(vitas_ds.__path__, "vitas_ds."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in LIBRARIES:
        importlib.import_module(name)
    _warm_up(folder)


def _warm_up(folder: Path) -> None:
    import torch

    from vitas_ds.config import Config
    from vitas_ds.data import dali
    from vitas_ds.data.preview import save_grid
    from vitas_ds.data.processing import Recipe

    data, augment = Config().data, Config().supernet.augment
    save_grid(torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64), ["0"], folder / "grid.png", data)
    for recipe in (
        Recipe(28, data.mean, data.std, augment=augment),
        Recipe(28, data.mean, data.std, resize=28),
        Recipe(28, data.mean, data.std, resize=28, uint8=True),
    ):
        dali.build(recipe, lambda: [], batch_size=1, threads=1, device_id=None)
