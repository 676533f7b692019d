"""``vitas predict``: classify images with an exported model or its ONNX file, preprocessed as in evaluation."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitas_ds.arch.spec import read_spec
from vitas_ds.config import Data
from vitas_ds.data.loader import eval_batches
from vitas_ds.data.sources import ImageSet
from vitas_ds.distributed.comm import Ranks
from vitas_ds.errors import UserError, printable, shorten
from vitas_ds.export.folder import read_model, read_preprocess
from vitas_ds.export.hub import local_folder
from vitas_ds.export.to_onnx import open_onnx

BATCH_SIZE = 64


def run(args: argparse.Namespace) -> int:
    """Run ``vitas predict MODEL IMAGE ... [--onnx] [--top N] [--json]``."""
    model = local_folder(args.model)
    if args.onnx and model.suffix != ".onnx":
        model = model / "model.onnx"
    problems: list[str] = []
    predictions = predict(model, args.images, args.top, problems)
    print(json.dumps(predictions, indent=1) if args.json else _table(predictions))
    for problem in problems:
        print(shorten(f"vitas predict: {problem}"), file=sys.stderr)
    return 1 if problems else 0


def predict(
    model: str | Path, files: Sequence[Path], top: int = 5, problems: list[str] | None = None
) -> list[dict[str, Any]]:
    """Return the most probable classes of each file.

    Args:
        model: Folder of an exported model, an ``.onnx`` file in one, or ``hf://USER/NAME``.
        files: Image files.
        top: Number of classes per image.
        problems: Filled with a line for each file that cannot be read; None: the first one is an error.

    Returns:
        ``{"file": ..., "predictions": [{"label", "class", "probability"}, ...]}`` for each file, most probable first.

    Raises:
        UserError: The model, a file, or all files cannot be read.
    """
    if top < 1:
        raise UserError(f"--top {top}: must be 1 or more")
    if problems is None:
        logits, names = classify(local_folder(model), files)
    else:
        files, logits, names = _classify_readable(local_folder(model), files, problems)
    ranked = logits.softmax(1).topk(min(top, len(names)))
    return [
        {
            "file": os.fsencode(file).decode(errors="replace"),
            "predictions": [
                {"label": label, "class": names[label], "probability": probability}
                for label, probability in zip(labels, probabilities, strict=True)
            ],
        }
        for file, labels, probabilities in zip(files, ranked.indices.tolist(), ranked.values.tolist(), strict=True)
    ]


def _classify_readable(
    model: Path, files: Sequence[Path], problems: list[str]
) -> tuple[list[Path], Tensor, tuple[str, ...]]:
    """Classify the files that can be read; return them and their results. Append the others to ``problems``."""
    left = list(files)
    while True:
        try:
            return left, *classify(model, left)
        except UserError as error:
            bad = [file for file in left if str(error).startswith(f"{printable(str(file))}: ")]
            if not bad or left == bad:  # an error of the model, or no file is left
                raise
            problems.append(str(error))
            left = [file for file in left if file not in bad]


def classify(model: Path, files: Sequence[Path]) -> tuple[Tensor, tuple[str, ...]]:
    """Return logits [files, classes] on the CPU, and the class names (numbers if the model has no names).

    Raises:
        UserError: The model or a file cannot be read.
    """
    folder = model.parent if model.suffix == ".onnx" else model
    if not folder.is_dir():
        raise UserError(f"{model}: neither a folder of an exported model nor an .onnx file in one")
    if not (folder / "spec.json").is_file():
        raise UserError(f"{folder}: has no spec.json; a run keeps its models in export/ and retrain/model/")
    for file in files:
        if not file.is_file():
            raise UserError(
                f"{printable(str(file))}: {'is a folder, not an image file' if file.is_dir() else 'no such file'}"
            )
    spec, preprocess = read_spec(folder / "spec.json"), read_preprocess(folder)
    names = preprocess.classes or tuple(map(str, range(spec.num_classes)))
    if len(names) != spec.num_classes:
        raise UserError(f"{folder}: preprocess.json names {len(names)} classes, spec.json has {spec.num_classes}")
    device = torch.device("cuda" if model is folder and torch.cuda.is_available() else "cpu")
    net = read_model(folder).to(device) if model is folder else open_onnx(model)
    images = ImageSet("", tuple(map(str, files)), np.zeros(len(files), np.int64), names)
    data = preprocess.apply_to(Data())
    try:
        with torch.inference_mode():
            batches = eval_batches(images, data, spec.image_size, BATCH_SIZE, Ranks(0, 1, 0, device))
            return torch.cat([net(batch.images).float().cpu() for batch in batches]), names
    except UserError as error:  # drop the fix, which is for training images
        raise UserError(str(error).partition("; replace it")[0]) from None


def _table(predictions: list[dict[str, Any]]) -> str:
    """Return one block per image: its name, then one line per class."""
    blocks = []
    for image in predictions:
        rows = [f"  {100 * row['probability']:5.1f} %  {shorten(row['class'], 80)}" for row in image["predictions"]]
        blocks.append("\n".join([printable(image["file"]), *rows]))
    return "\n".join(blocks)
