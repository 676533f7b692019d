"""Choose where training starts.

The first of these that exists:

1. the newest intact checkpoint of the run: training resumes, bitwise equal;
2. ``resume_from``: another checkpoint, with optimizer state, step counts, averaged weights and step;
3. ``init_weights``, or the initial weights of the task (``retrain.init``): only weights, starting at step 0;
4. random weights, drawn from ``run.seed``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from vitas_ds.config import Training
from vitas_ds.errors import UserError
from vitas_ds.models.shapes import check_finite, check_shapes, shapes_of
from vitas_ds.training import checkpoint_files
from vitas_ds.training.checkpoint_reader import (
    consolidate,
    find_checkpoint,
    open_checkpoint,
    read_consolidated,
)


@dataclass(frozen=True)
class Origin:
    """Where training starts.

    Attributes:
        checkpoint: Checkpoint to load into the engine.
        weights: Checkpoint or safetensors file whose weights to load into the model, before the engine is created.
        own: Whether ``checkpoint`` is of this run.
        init: Description of the initial weights, if they are neither random nor in ``weights``.
    """

    checkpoint: Path | None = None
    weights: Path | None = None
    own: bool = False
    init: str = ""

    def describe(self, step: int, total: int) -> str:
        """Describe the start in a few words."""
        if self.checkpoint:
            return f"resuming at step {step} of {total}" + ("" if self.own else f" from {self.checkpoint}")
        return (
            f"starting from the weights in {self.weights}"
            if self.weights
            else f"starting from {self.init or 'scratch'}"
        )


def find_origin(checkpoints: Path, training: Training, section: str) -> Origin:
    """Find the origin of a training stage. All ranks must call this.

    Args:
        checkpoints: Folder of the run's own checkpoints.
        training: Section of the config.
        section: Name of the section, for error messages.

    Raises:
        UserError: A checkpoint or file is missing or damaged.
    """
    own = checkpoint_files.newest(checkpoints)
    if own:
        return Origin(own, own=True)
    if training.resume_from:
        return Origin(_find_state(Path(training.resume_from), section))
    if training.init_weights:
        return Origin(weights=_find_weights(Path(training.init_weights), f"{section}.init_weights"))
    return Origin()


def _find_state(path: Path, section: str) -> Path:
    """Return the checkpoint with the state of a training that ``path`` refers to."""
    checkpoint = find_checkpoint(path, f"{section}.resume_from")
    if checkpoint is None:
        raise UserError(f"{section}.resume_from: {path}: not a checkpoint or a folder of checkpoints")
    state = open_checkpoint(checkpoint).state
    if state is not None and not state["loop"]:
        raise UserError(
            f"{section}.resume_from: {path}: only for --replay of a divergence, without the state of the training; "
            "resume from a checkpoint in the folder checkpoints"
        )
    if state is None:
        raise UserError(
            f"{section}.resume_from: {path}: a checkpoint of DeepSpeed, of which only weights can be read; "
            f"set {section}.init_weights instead"
        )
    return checkpoint


def _find_weights(path: Path, field: str) -> Path:
    """Return the file or checkpoint with the weights that ``path`` refers to."""
    if path.is_file():
        return path
    if (path / "model.safetensors").is_file():
        raise UserError(f"{field}: {path}: an exported model; retrain.init={path} starts from it")
    checkpoint = find_checkpoint(path, field)
    if checkpoint is None:
        raise UserError(f"{field}: {path}: not a checkpoint or a .safetensors file")
    return checkpoint


def load_weights(model: nn.Module, path: Path) -> None:
    """Load the weights of a checkpoint or a safetensors file into a model.

    Raises:
        UserError: The file cannot be read, or is of another network.
    """
    try:
        weights: dict[str, Tensor] = consolidate(path) if path.is_dir() else read_consolidated(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot read weights ({error})") from None
    check_shapes(f"{path}: weights of another network", shapes_of(weights), shapes_of(model.state_dict()))
    check_finite(str(path), weights)
    with torch.no_grad():
        model.load_state_dict(weights)
