"""``data.json``: how ``resize-data`` made a folder of images. The stages read it; no image library is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vitas_ds.errors import UserError
from vitas_ds.errors.reading import read_json

NAME = "data.json"


def read_settings(root: str | Path) -> dict[str, Any] | None:
    """Return the settings with which ``resize-data`` made the folder ``root``; None if it did not.

    Raises:
        UserError: ``data.json`` cannot be read.
    """
    path = Path(root) / NAME
    if not path.is_file():
        return None
    settings = read_json(path)
    if not isinstance(settings, dict) or "short_side" not in settings:
        return None
    expected = {"short_side": int, "quality": int, "complete": bool}
    for key, kind in expected.items():
        if not isinstance(settings.get(key), kind):
            raise UserError(f"{path}: {key} must be {kind.__name__}; restore the file, or make the folder again")
    return settings


def check_complete(root: str | Path) -> int | None:
    """Return the length of the shorter sides of a folder made by ``resize-data``; None for other folders.

    Raises:
        UserError: ``resize-data`` has not finished.
    """
    settings = read_settings(root)
    if settings is not None and not settings.get("complete"):
        raise UserError(f"{root}: resize-data has not finished this folder; start it again with the same arguments")
    return None if settings is None else int(settings["short_side"])


def describe(root: str | Path) -> str:
    """Return how the images were shrunk, for a report; empty if they were not."""
    settings = read_settings(root)
    if settings is None:
        return ""
    return f"shrunk to a shorter side of {settings['short_side']} px, JPEG quality {settings['quality']}"
