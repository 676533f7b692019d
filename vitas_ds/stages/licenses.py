"""The license of a network that was trained here: that of its initial weights, if they are from elsewhere."""

from __future__ import annotations

from pathlib import Path

from vitas_ds.config import Config
from vitas_ds.errors import UserError
from vitas_ds.export.card import LICENSE, read_license
from vitas_ds.run.run_dir import RunDir, read_config
from vitas_ds.stages.model_folders import find_model, is_checkpoint
from vitas_ds.stages.source_run import supernet_run

UNKNOWN = "unknown"


def license_of_training(config: Config) -> str:
    """Return the license of the network that the stage retrain trains; "unknown" if files do not tell it."""
    return _of_training(config, ())


def _of_training(config: Config, seen: tuple[Path, ...]) -> str:
    training = config.retrain
    if training.resume_from or training.init_weights:
        return _of_file(Path(training.resume_from or training.init_weights or ""), seen)
    if training.init == "scratch":
        return LICENSE
    if training.init == "supernet":
        folder = supernet_run(config).pretrained
        return read_license(folder) if folder.is_dir() else LICENSE
    if is_checkpoint(training.init):
        return _of_file(Path(training.init), seen)
    try:
        return read_license(find_model(training.init, "retrain.init"))
    except UserError:  # removed during the training
        return UNKNOWN


def _of_file(path: Path, seen: tuple[Path, ...]) -> str:
    """Return the license of a checkpoint or a file of weights: of the run that trained it, or of its folder.

    Args:
        path: The checkpoint or file.
        seen: Runs on the way to it: weights in a run may be those that its own training started from.
    """
    if (path.parent / "README.md").is_file():
        return read_license(path.parent)
    for run in (RunDir(folder) for folder in path.absolute().parents[:3]):  # RUN/retrain/checkpoints/step-N
        if run.config.is_file():
            if (run.retrain_model / "README.md").is_file():
                return read_license(run.retrain_model)
            try:
                return UNKNOWN if run.path in seen else _of_training(read_config(run), (*seen, run.path))
            except UserError:  # of another version, or damaged
                return UNKNOWN
    return UNKNOWN
