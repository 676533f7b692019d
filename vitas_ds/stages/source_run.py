"""Find the run whose supernet a stage uses (``search.checkpoint``), and check that its space and classes fit.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitas_ds.arch.space import SearchSpace
from vitas_ds.config import Config, format_value
from vitas_ds.data.sources import ImageSet
from vitas_ds.errors import UserError
from vitas_ds.run.files import read_json
from vitas_ds.run.run_dir import RunDir, read_config, run_of
from vitas_ds.stages.model_folders import is_checkpoint

WIDTHS = ("embed_widths", "qkv_widths", "mlp_widths")  # a search may use fewer of them than the supernet has
NARROWER = {"ratios", "embed_ratios", "qkv_ratios", "mlp_ratios", "identity", "min_depth", "identity_shift"}
SUPERNET = ("sharing", "private_attention", "private_norms")


def source_run(config: Config) -> RunDir | None:
    """Return the run that ``search.checkpoint`` names; None if it names weights, a checkpoint or nothing."""
    run = RunDir(Path(config.search.checkpoint)) if config.search.checkpoint else None
    return run if run is not None and run.config.is_file() else None


def supernet_run(config: Config) -> RunDir:
    """Return the run of the supernet that a stage uses: of ``search.checkpoint`` if it is in a run, else its own."""
    return source_run(config) or run_around(config.search.checkpoint) or run_of(config)


def run_around(checkpoint: str | None) -> RunDir | None:
    """Return the run that has trained these weights or this checkpoint; None if they are somewhere else."""
    if not checkpoint:
        return None
    path = Path(checkpoint).absolute()
    runs = (RunDir(folder) for folder in path.parents[:3])  # RUN/supernet/checkpoints/step-N
    return next((run for run in runs if run.supernet.path in path.parents and run.config.is_file()), None)


def check_source(config: Config, needed: bool = True) -> None:
    """Check that ``search.checkpoint`` has a trained supernet and, if it is a run, one of the same space.

    Raises:
        UserError: It does not exist, is neither a run nor weights, or a setting differs.
    """
    path, run = config.search.checkpoint, source_run(config)
    if path is None:
        return
    if run is None:
        if needed and not Path(path).exists():
            raise UserError(f"search.checkpoint: {path}: no such run, checkpoint or file of weights")
        if Path(path).is_dir() and not is_checkpoint(path):
            raise UserError(f"search.checkpoint: {path}: neither a run nor a checkpoint; give the folder of a run")
        return
    if not run.supernet_weights.is_file():
        raise UserError(
            f"search.checkpoint: {path}: this run has not trained a supernet yet; finish its stage train-supernet, or "
            f"give one of its checkpoints, {run.supernet.checkpoints}/step-..."
        )
    for name, theirs, ours in _settings(read_config(run), config):
        if theirs != ours:
            raise UserError(
                f"search.checkpoint: {path} has a supernet with {name}={format_value(theirs)}, this search has "
                f"{format_value(ours)}; set {name} as it has, or give {path} instead of a recipe"
            )
    _check_widths(path, read_config(run).space, config.space)


def _settings(theirs: Config, ours: Config) -> Iterator[tuple[str, Any, Any]]:
    """Yield name and both values of the settings that weights and scores of a supernet depend on."""
    for field in SearchSpace.model_fields:
        if field not in NARROWER:
            yield f"space.{field}", getattr(theirs.space, field), getattr(ours.space, field)
    sharing = ours.supernet.sharing
    if sharing == "cyclic" or (sharing == "bilateral" and ours.space.elastic.on):  # channels depend on all widths
        for name in ("embed", "qkv", "mlp"):
            trained, searched = (getattr(config.space, f"{name}_widths") for config in (theirs, ours))
            yield f"the widths of space.{name}_ratios", trained, searched
    for field in SUPERNET:
        yield f"supernet.{field}", getattr(theirs.supernet, field), getattr(ours.supernet, field)
    for field in ("resize", "mean", "std"):
        yield f"data.{field}", getattr(theirs.data, field), getattr(ours.data, field)


def _check_widths(path: str, theirs: SearchSpace, ours: SearchSpace) -> None:
    for name in WIDTHS:
        more = sorted(set(getattr(ours, name)) - set(getattr(theirs, name)))
        if more:
            raise UserError(
                f"search.checkpoint: the supernet of {path} was not trained with width {more[0]} of space."
                f"{name.removesuffix('_widths')}_dim; use its ratios, or some of them"
            )


def check_classes(config: Config, images: ImageSet) -> None:
    """Check that the images have the same classes as the supernet of ``search.checkpoint``.

    Raises:
        UserError: They differ.
    """
    run = source_run(config)
    trained = read_json(run.classes, {}) if run else {}
    ours = {name: index for index, name in enumerate(images.classes)}
    if trained and ours != trained:
        different = sorted(trained.items() ^ ours.items())[0][0]
        raise UserError(f"data.train: the supernet of {config.search.checkpoint} has other classes (see {different})")
