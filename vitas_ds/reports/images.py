"""Image files inside the page, as text."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path

from vitas_ds.run.run_dir import RunDir

LARGEST = 120_000  # bytes of a file that goes into the page as it is
WIDEST = 1000  # pixels


def seen(run: RunDir) -> list[str]:
    """What the network saw: the first batches of each stage."""
    files = (
        ("Training images of the supernet", run.supernet / "images.png"),
        ("Training images of the retrained net", run.retrain / "images.png"),
        ("Validation images", run.path / "evaluation_images.png"),
    )
    return [picture(title, path) for title, path in files if path.is_file()]


def picture(title: str, path: Path) -> str:
    """A figure with the image as a data URI; a large file is shrunk and becomes a JPEG."""
    data, kind = path.read_bytes(), "png"
    if len(data) > LARGEST:
        data, kind = _shrunk(data), "jpeg"
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<img alt="{escape(title, True)}" loading="lazy" src="{source}"></figure>'
    )


def _shrunk(data: bytes) -> bytes:
    from PIL import Image  # comes with matplotlib

    image = Image.open(io.BytesIO(data)).convert("RGB")
    image.thumbnail((WIDEST, 4 * WIDEST))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()
