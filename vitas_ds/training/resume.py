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
from safetensors.torch import load_file
from torch import Tensor, nn

from vitas_ds.config import Training
from vitas_ds.distributed import comm
from vitas_ds.errors import UserError
from vitas_ds.models.shapes import check_shapes, shapes_of
from vitas_ds.training import checkpoint_deepspeed, checkpoint_files
from vitas_ds.training.checkpoint_reader import consolidate


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
    if checkpoint_files.list_checkpoints(checkpoints):
        raise UserError(f"{checkpoints}: no checkpoint is intact, see above; move the folder to start from scratch")
    if training.resume_from:
        path = _find_checkpoint(Path(training.resume_from), f"{section}.resume_from")
        if path is None and checkpoint_deepspeed.find(Path(training.resume_from)):
            raise UserError(
                f"{section}.resume_from: {training.resume_from}: a checkpoint of DeepSpeed, of which only weights "
                f"can be read; set {section}.init_weights instead"
            )
        if path is None:
            raise UserError(
                f"{section}.resume_from: {training.resume_from}: not a checkpoint or a folder of checkpoints"
            )
        return Origin(path)
    if training.init_weights:
        return Origin(weights=_find_weights(Path(training.init_weights), f"{section}.init_weights"))
    return Origin()


def _find_weights(path: Path, field: str) -> Path:
    """Return the file or checkpoint with the weights that ``path`` refers to."""
    if path.is_file():
        return path
    if (path / "model.safetensors").is_file():
        raise UserError(f"{field}: {path}: an exported model; retrain.init={path} starts from it")
    checkpoint = checkpoint_deepspeed.find(path) or _find_checkpoint(path, field)
    if checkpoint is None:
        raise UserError(f"{field}: {path}: not a checkpoint or a .safetensors file")
    return checkpoint


def _find_checkpoint(path: Path, field: str) -> Path | None:
    """Return ``path`` if it is a checkpoint, else the newest checkpoint in it, else None."""
    if not (path / "manifest.json").is_file():
        return checkpoint_files.newest(path)
    problem = comm.from_main(lambda: checkpoint_files.verify(path))
    if problem:
        raise UserError(f"{field}: damaged checkpoint: {problem}")
    return path


def load_weights(model: nn.Module, path: Path) -> None:
    """Load the weights of a checkpoint or a safetensors file into a model.

    Raises:
        UserError: The file cannot be read, or is of another network.
    """
    try:
        weights: dict[str, Tensor] = consolidate(path) if path.is_dir() else load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot read weights ({error})") from None
    check_shapes(f"{path}: weights of another network", shapes_of(weights), shapes_of(model.state_dict()))
    with torch.no_grad():
        model.load_state_dict(weights)
