"""Read and write the files of a run."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from vitas_ds.errors import UserError


def read_json(path: Path, missing: Any) -> Any:
    """What a JSON file holds, ``missing`` if it is not there. Raises ``UserError`` if it is no JSON."""
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        return missing
    except ValueError as error:
        raise UserError(f"{path}: not a JSON file ({error})") from None
    if isinstance(missing, dict) and not isinstance(data, dict):
        raise UserError(f"{path}: not a JSON object; move it away, it is written again")
    return data


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` whole or not at all; see ``to_json``."""
    write_text(path, to_json(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write ``path`` whole or not at all: aside, flushed to the disk, renamed. Its folder is made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that any reader takes: arrays and tensors as lists, paths as text, nan and infinity as null."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy, torch
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
