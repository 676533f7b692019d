"""Load the trained supernet of a run, or the one that ``search.checkpoint`` names."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from vitas_ds.config import Config, format_value
from vitas_ds.errors import UserError
from vitas_ds.models.shapes import check_finite, check_shapes, shapes_of
from vitas_ds.models.supernet import Supernet
from vitas_ds.run.run_dir import RunDir, read_config
from vitas_ds.run.summary import is_changed
from vitas_ds.stages.source_run import run_around, source_run
from vitas_ds.training.checkpoint_reader import consolidate, find_checkpoint, read_consolidated


def load_supernet(config: Config, run_dir: RunDir) -> tuple[Supernet, str]:
    """Load the trained supernet of this run, or the one that ``search.checkpoint`` names.

    The path is a consolidated file, or a checkpoint of any ZeRO stage and number of ranks. No engine is needed.

    Returns:
        The supernet, and the SHA-256 of its weights.

    Raises:
        UserError: The weights are missing, damaged, not those that the run has trained, or belong to another space.
    """
    check_supernet_exists(config, run_dir)
    path = supernet_path(config, run_dir)
    weights = _read_weights(path, config)
    _check_own(config, run_dir, path)
    _check_order(config, path)
    sharing, private = config.supernet.sharing, config.supernet.private_attention
    supernet = Supernet(
        config.space, sharing, private, class_token_only=True, private_norms=config.supernet.private_norms
    )
    check_shapes(f"{path}: a supernet of another space", shapes_of(weights), shapes_of(supernet.state_dict()))
    check_finite(str(path), weights)
    supernet.load_state_dict(weights)
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].contiguous().numpy().tobytes())
    return supernet.eval(), digest.hexdigest()


def _check_order(config: Config, path: Path) -> None:
    """Check that weights named by ``search.checkpoint`` drop their layers in the order of the space, if any.

    A run is checked by ``check_source``.
    """
    space, checkpoint = config.space, config.search.checkpoint
    if not checkpoint or source_run(config) or not space.elastic.on or space.min_layers == space.depth:
        return
    ours, run = space.elastic.drop_order, run_around(checkpoint)
    if run is None and ours is None:
        raise UserError(
            f"search.checkpoint: {path} is in no run that tells the order in which its layers are dropped; give the "
            "folder of its run, or set space.elastic.drop_order"
        )
    if run is not None and (theirs := read_config(run).space.elastic.drop_order) != ours:
        raise UserError(
            f"search.checkpoint: {path} has space.elastic.drop_order={format_value(theirs)}, this search has "
            f"{format_value(ours)}; set it as in {run.config}"
        )


def supernet_path(config: Config, run_dir: RunDir) -> Path:
    """Return the path of the weights. They need not exist."""
    run = source_run(config)
    return run.supernet_weights if run else Path(config.search.checkpoint or run_dir.supernet_weights)


def check_supernet_exists(config: Config, run_dir: RunDir) -> None:
    """Raise ``UserError`` if the weights do not exist."""
    path = supernet_path(config, run_dir)
    if not path.exists():
        fix = "check search.checkpoint"
        if not config.search.checkpoint:
            fix = "run the stage train-supernet first, or set search.checkpoint to a run that has trained one"
        raise UserError(f"{path}: no trained supernet; {fix}")


def _check_own(config: Config, run_dir: RunDir, path: Path) -> None:
    run = source_run(config) or (None if config.search.checkpoint else run_dir)
    if run is not None and is_changed(run, "train-supernet"):
        raise UserError(
            f"{path}: not the weights that train-supernet has trained, or {run.supernet.result} was changed; restore "
            "it, or name other weights with search.checkpoint"
        )


def _read_weights(path: Path, config: Config) -> dict[str, Tensor]:
    try:
        if not path.is_dir():
            return read_consolidated(path)
        return consolidate(find_checkpoint(path, "search.checkpoint") or path, ema=config.supernet.ema_decay > 0)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as weights of a supernet ({error})") from None
