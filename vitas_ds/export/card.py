"""Model cards: Markdown with the YAML header of model hubs. A card contains only measured numbers.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vitas_ds.arch.cost import spec_macs, spec_params
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.errors import UserError
from vitas_ds.errors.reading import read_text

LICENSE = "apache-2.0"


@dataclass(frozen=True)
class Accuracy:
    """Measured accuracy in [0, 1] on ``images`` images of ``dataset``."""

    dataset: str
    images: int
    top1: float
    top5: float


def model_card(
    spec: SubnetSpec, name: str, facts: Mapping[str, object], accuracy: Accuracy | None = None,
    files: Mapping[str, str] | None = None, license: str = LICENSE, digests: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """Return the model card of a network.

    Args:
        spec: The network.
        name: Title of the card.
        facts: Additional rows of the table.
        accuracy: Measured accuracy, listed by model hubs.
        files: Additional files of the folder, with a description and the result of their check.
        license: Identifier of a license on model hubs.
        digests: SHA-256 of each file.
    """
    rows = {
        "parameters": f"{spec_params(spec):,}",
        "MACs of an image": f"{spec_macs(spec):,}",
        "input": f"RGB, {spec.image_size} x {spec.image_size}",
        "classes": spec.num_classes,
        "patch size, width, layers": f"{spec.patch_size}, {spec.embed_dim}, {spec.depth}",
        **facts,
        "license": license,
    }
    header = yaml.safe_dump(_header(name, accuracy, license), sort_keys=False, allow_unicode=True)
    files = _FILES | dict(files or {})
    card = _CARD.format(header=header, name=name, rows=_table(rows), size=spec.image_size, files=_table(files))
    if digests:
        card += _DIGESTS.format(rows=_table({f"`{file}`": f"`{digest}`" for file, digest in digests.items()}))
    return card


_CARD = """---
{header}---

# {name}

A vision transformer for image classification, exported by vitas_ds, an implementation of
[ViTAS](https://arxiv.org/abs/2106.13700).

{rows}

## How to load

```python
from pathlib import Path

import vitas_ds
from vitas_ds.tools.predict import predict

here = "path/to/this/folder"         # or "hf://USER/NAME"
predict(here, [Path("image.jpg")])   # most likely classes; preprocessing as in preprocess.json
model = vitas_ds.load(here)          # in evaluation mode: images [B, 3, {size}, {size}] to logits
```

This requires the package `vitas_ds`. `python -m vitas_ds predict path/to/this/folder IMAGE ...` classifies images; with
`--onnx`, it runs `model.onnx` if the folder contains it.

## Files

{files}
"""


_DIGESTS = """
## SHA-256

{rows}
"""


_FILES = {
    "`model.safetensors`": "weights, float32",
    "`spec.json`": "architecture: the sizes of every layer",
    "`preprocess.json`": "preprocessing and class names",
    "`config.json`": "the table above in machine-readable form",
}


def read_license(directory: Path) -> str:
    """Return the license in the model card of a folder; "unknown" if there is none."""
    try:
        header = yaml.safe_load(read_text(directory / "README.md").split("---")[1])
        return str(header["license"])
    except (OSError, UserError, ValueError, IndexError, KeyError, TypeError, yaml.YAMLError):
        return "unknown"


def _header(name: str, accuracy: Accuracy | None, license: str) -> dict[str, Any]:
    header: dict[str, Any] = {
        "license": license,
        "library_name": "vitas_ds",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "vision-transformer", "neural-architecture-search"],
    }
    if accuracy is not None:
        metrics = [("top-1 accuracy", accuracy.top1), ("top-5 accuracy", accuracy.top5)]
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": accuracy.dataset, "type": "imagefolder"},
            "metrics": [{"type": "accuracy", "name": name, "value": round(value, 6)} for name, value in metrics],
        }
        header["model-index"] = [{"name": name, "results": [result]}]
    return header


def _table(rows: Mapping[str, object]) -> str:
    lines = [f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
