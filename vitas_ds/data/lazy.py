"""Import DALI when images are loaded, so that everything else works without it."""

from __future__ import annotations

from typing import Any

from vitas_ds.errors import UserError


def load_dali() -> Any:
    """Import the pipelines.

    Raises:
        UserError: DALI is not installed, or does not work on this machine.
    """
    try:
        from vitas_ds.data import dali
    except ImportError as error:
        raise UserError(
            f"NVIDIA DALI, which loads the images, cannot be imported ({error}); pip install -r requirements.txt, "
            "or measure without images: data.synthetic=true"
        ) from None
    return dali
