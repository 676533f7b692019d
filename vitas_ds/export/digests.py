"""Digests of the files of an exported model, in its ``config.json``.

A changed byte in a weight, another ``spec.json`` or an emptied ``preprocess.json`` gives no error by itself, only other
results. A folder without digests, from another program or an older version, is not verified.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from vitas_ds.errors import UserError
from vitas_ds.errors.reading import read_json
from vitas_ds.run.files import file_digest

FILES = ("model.safetensors", "spec.json", "preprocess.json")
KEY = "sha256"


def digests_of(directory: Path) -> dict[str, dict[str, str]]:
    """Return the entry of ``config.json`` for the files of a folder."""
    return {KEY: {name: file_digest(directory / name) for name in FILES}}


def settings_digest(directory: Path) -> str:
    """Return a digest of the architecture and the preprocessing of a folder; the weights are not in it."""
    files = [directory / name for name in FILES if name != "model.safetensors"]
    return hashlib.sha256("".join(file_digest(file) for file in files if file.is_file()).encode()).hexdigest()


def is_intact(directory: Path) -> bool:
    """Return whether all files of an exported model are there, as they were written."""
    try:
        for name in FILES:
            check_file(directory / name)
    except UserError:
        return False
    return all((directory / name).is_file() for name in (*FILES, "config.json", "README.md"))


def check_file(file: Path) -> None:
    """Compare a file of an exported model with its digest.

    Raises:
        UserError: The file was changed or is missing, or ``config.json`` is damaged.
    """
    config = file.parent / "config.json"
    try:
        digests = read_json(config).get(KEY, {})
        expected = digests.get(file.name)
    except FileNotFoundError:
        return
    except (UserError, AttributeError):
        raise UserError(f"{config}: damaged, it has the digests of the other files; restore it, or delete it") from None
    if expected is None:
        return
    if not file.is_file():
        raise UserError(f"{file} is missing; restore it, or export the model again")
    if file_digest(file) != expected:
        raise UserError(
            f"{file} was changed after the export: its SHA-256 does not match {config.name}; restore it, or export "
            "the model again"
        )
