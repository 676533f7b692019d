"""Embed image files in the page as data URIs."""

from __future__ import annotations

import base64
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

from vitas_ds.run.run_dir import RunDir

MAX_BYTES = 120_000  # larger files are shrunk to a JPEG
MAX_WIDTH = 1000  # pixels


@dataclass(frozen=True)
class EmbeddedImage:
    """An image with its caption."""

    title: str
    uri: str


def input_images(run: RunDir) -> list[EmbeddedImage]:
    """Return the first batch that each stage fed to its network."""
    files = (
        ("Training images of the supernet", run.supernet.images),
        ("Training images of the retrained network", run.retrain.images),
        ("Validation images", run.evaluation_images),
    )
    found = []
    for title, path in files:
        if not path.is_file():
            continue
        try:
            found.append(EmbeddedImage(title, data_uri(path)))
        except (OSError, ValueError) as error:  # Pillow raises both for damaged files
            warnings.warn(f"{path}: left out of the report, not an image ({error})", stacklevel=2)
    return found


def data_uri(path: Path) -> str:
    """Return a PNG file as a data URI; a file above ``MAX_BYTES`` becomes a smaller JPEG."""
    data, kind = path.read_bytes(), "png"
    if len(data) > MAX_BYTES:
        data, kind = _shrink(data), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _shrink(data: bytes) -> bytes:
    from PIL import Image  # installed with matplotlib

    image = Image.open(io.BytesIO(data)).convert("RGB")
    image.thumbnail((MAX_WIDTH, 4 * MAX_WIDTH))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
