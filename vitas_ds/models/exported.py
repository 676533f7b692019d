"""An exported model: a folder with ``model.safetensors``, ``spec.json``, ``preprocess.json`` and a model card."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vitas_ds.cost import spec_macs
from vitas_ds.errors import UserError
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.run_dir import write_json, write_text
from vitas_ds.spec import read_spec


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an image becomes the model's input: resize the shorter side, crop the centre, normalise RGB in [0, 1]."""

    resize: int = 256
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    classes: tuple[str, ...] = ()


def write_model(model: VisionTransformer, directory: Path, preprocess: Preprocess, card: str) -> None:
    """Write an exported model, whole or not at all: aside, then renamed over what was there."""
    aside = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    tensors = {name: value.detach().float().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, aside / "model.safetensors", metadata={"format": "pt"})
    write_json(aside / "spec.json", model.spec.to_dict())
    write_json(aside / "preprocess.json", asdict(preprocess))
    write_text(aside / "README.md", card)
    shutil.rmtree(directory, ignore_errors=True)
    aside.rename(directory)


def read_model(directory: Path) -> VisionTransformer:
    """The model of an exported folder, in evaluation mode.

    Raises:
        UserError: the folder is no exported model, or its tensors do not fit its ``spec.json``.
    """
    weights = directory / "model.safetensors"
    if not weights.is_file():
        raise UserError(f"{directory}: not an exported model: {weights.name} is missing")
    model = VisionTransformer(read_spec(directory / "spec.json"))
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{weights}: does not fit {directory / 'spec.json'}: {reason}") from None
    return model.eval()


def read_preprocess(directory: Path) -> Preprocess:
    """How images of an exported model are prepared; ImageNet's usual values where the folder does not say."""
    path = directory / "preprocess.json"
    if not path.is_file():
        return Preprocess()
    data = json.loads(path.read_text())
    return Preprocess(data["resize"], tuple(data["mean"]), tuple(data["std"]), tuple(data["classes"]))


def model_card(model: VisionTransformer, name: str, facts: dict[str, object]) -> str:
    """A model card in Markdown; ``facts`` become its table."""
    spec = model.spec
    count = sum(weight.numel() for weight in model.parameters())
    rows = {
        "parameters": f"{count:,}",
        "MACs of an image": f"{spec_macs(spec):,}",
        "input": f"RGB, {spec.image_size} x {spec.image_size}",
        "classes": spec.num_classes,
        "patch size, width, depth": f"{spec.patch_size}, {spec.embed_dim}, {spec.depth}",
    } | facts
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""---
license: apache-2.0
tags: [image-classification, vision-transformer, architecture-search]
---

# {name}

A vision transformer found and trained by [ViTAS](https://arxiv.org/abs/2106.13700) with vitas_ds.

| | |
|---|---|
{table}

```python
import vitas_ds
model = vitas_ds.load("path/to/this/folder")   # evaluation mode
logits = model(images)                         # [B, 3, {spec.image_size}, {spec.image_size}] -> [B, {spec.num_classes}]
```

`spec.json` holds every layer; `preprocess.json` says how an image is prepared and names the classes.
"""
