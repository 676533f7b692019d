"""Inputs behind the results of a stage, and their comparison with those of this start.

    runs/NAME/contents/train-1.txt ...    contents of image sets (data/contents.py), one file per version
    runs/NAME/supernet/inputs.json        versions of the images, digests of weights; also in search/ and retrain/

Only rank 0 calls these functions.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from vitas_ds.config import Config
from vitas_ds.data import contents
from vitas_ds.data.sources import ImageSet
from vitas_ds.errors import Stale, UserError, shorten
from vitas_ds.run.files import file_digest, read_json, write_json, write_text
from vitas_ds.run.run_dir import RunDir
from vitas_ds.stages.common import training_images
from vitas_ds.stages.trained_supernet import supernet_path

FILE, WEIGHTS = "inputs.json", "model.safetensors"
VERSION = "1"  # another one if stages compute other results from the same inputs

Images = Mapping[str, ImageSet | None]  # by kind: train, search or val; None: the folder is not there to compare
Digests = Mapping[str, str | None]


def check_inputs(run: RunDir, stage: str, folder: Path, images: Images, digests: Digests) -> None:
    """Check that the results in ``folder`` were made from these inputs. Results without a record pass.

    Raises:
        Stale: They were made from others; the message says which.
    """
    recorded = _read(folder / FILE)
    for name, value in {"version": VERSION, **digests}.items():
        if value is not None and recorded.get(name) not in (None, value):
            _raise(run, stage, f"{name} {'is' if name == 'version' else 'are'} not the same")
    for kind, found in images.items():
        if found is not None and (text := difference(run, recorded.get(kind), found)):
            _raise(run, stage, f"{kind} images: {text} (recorded in {run.contents.name}/{recorded[kind]}.txt)")


def record_inputs(run: RunDir, stage: str, folder: Path, images: Images, digests: Digests) -> None:
    """Check the inputs, and record them unless they are. The run must be locked.

    Raises:
        Stale: See ``check_inputs``.
    """
    check_inputs(run, stage, folder, images, digests)
    if not (folder / FILE).exists():
        versions = {kind: version_of(run, kind, found) for kind, found in images.items() if found is not None}
        write_json(folder / FILE, {"version": VERSION} | versions | dict(digests))


def _read(file: Path) -> dict[str, str | None]:
    """Return a record of inputs; empty if there is none."""
    recorded = read_json(file, {})
    for name, value in recorded.items():
        if not isinstance(value, str | None):
            raise UserError(f"{file}: {name}: must be text (given: {shorten(repr(value), 60)}); restore it")
    return recorded


def difference(run: RunDir, version: str | None, images: ImageSet) -> str:
    """Return how images differ from a recorded version, in a few words; "" if they do not, or without a record."""
    with suppress(FileNotFoundError):
        if version is not None and images.seed is None:
            return contents.difference(contents.read(run.contents / f"{Path(version).name}.txt"), images)
    return ""


def version_of(run: RunDir, kind: str, images: ImageSet) -> str | None:
    """Return the version of images, recorded as a new one unless it is known; None for random images."""
    if images.seed is not None:
        return None
    numbers = [int(n) for path in run.contents.glob(f"{kind}-*.txt") if (n := path.stem.rpartition("-")[2]).isdecimal()]
    for number in sorted(numbers, reverse=True):
        if not difference(run, f"{kind}-{number}", images):
            return f"{kind}-{number}"
    version = f"{kind}-{max(numbers, default=0) + 1}"
    write_text(run.contents / f"{version}.txt", contents.to_text(contents.take(images)))
    return version


def check_training_images(config: Config, run: RunDir, images: ImageSet) -> None:
    """Compare ``data.train`` with the training images of this run's supernet.

    The same images in another folder are fine. Changed images in the same folder give a warning.

    Raises:
        UserError: It is another folder with other images.
    """
    version = _read(run.supernet.path / FILE).get("train")
    if not (text := difference(run, version, images)):
        return
    if os.path.realpath(contents.read(run.contents / f"{version}.txt").root) != os.path.realpath(images.root):
        raise UserError(
            f"data.train: {images.root} has other images than this run was trained on ({text}); set another run.name"
        )
    warnings.warn(f"{images.root}: has changed since train-supernet: {text}", stacklevel=2)


def weights_id(path: Path) -> str | None:
    """Return a digest of weights: of a file, or of the manifest of a checkpoint; None if there are none."""
    if path.is_file():
        return file_digest(path)
    manifests = sorted(path.glob("manifest.json")) or sorted(path.glob("step-*/manifest.json"))
    return file_digest(manifests[-1]) if manifests else None


def initial_weights_id(config: Config, run: RunDir) -> str | None:
    """Return a digest of the weights that ``retrain.init`` names; None if they are random, or not there."""
    init = config.retrain.init
    if init == "scratch":
        return None
    folder = supernet_path(config, run) if init == "supernet" else Path(init)
    found = (weights_id(path) for path in (folder / WEIGHTS, RunDir(folder).retrain_weights, folder))
    return next(filter(None, found), None)


def train_if_present(config: Config) -> ImageSet | None:
    """Return the images of ``data.train``; None if the folder is not there: finished results do not need it."""
    return training_images(config) if config.data.synthetic or os.path.isdir(config.data.train) else None


def _raise(run: RunDir, stage: str, text: str) -> None:
    raise Stale(
        run.path, stage, text, f"{run.path}: {text}, unlike when {stage} started; restore them, or set another run.name"
    )
