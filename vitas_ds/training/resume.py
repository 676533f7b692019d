"""Where a training starts from. The first of these that is there:

1. the run's own newest checkpoint that is whole: the training goes on bit for bit;
2. ``resume_from``: a given checkpoint, with optimizer, clocks, averages and its step;
3. ``init_weights``: weights alone, from step 0 on;
4. scratch: weights drawn from ``run.seed``.
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
from vitas_ds.training import checkpoint


@dataclass(frozen=True)
class Origin:
    """``checkpoint`` is to be loaded whole into the engine; else ``weights``, if any, into the network before it."""

    checkpoint: Path | None = None
    weights: Path | None = None
    own: bool = False

    def words(self, step: int, total: int) -> str:
        """What was taken."""
        if self.checkpoint:
            return f"going on from step {step} of {total}" + ("" if self.own else f" of {self.checkpoint}")
        return f"starting with the weights of {self.weights}" if self.weights else "starting from scratch"


def find(checkpoints: Path, training: Training, section: str) -> Origin:
    """The origin of a training whose own checkpoints lie in ``checkpoints``. All ranks call it.

    Args:
        section: of the config, for messages.

    Raises:
        UserError: what the config names is not there, or not whole.
    """
    own = checkpoint.newest(checkpoints)
    if own:
        return Origin(own, own=True)
    if checkpoint.found(checkpoints):
        raise UserError(f"{checkpoints}: no checkpoint in it is whole, see above; move it away to start from scratch")
    if training.resume_from:
        given = _checkpoint(Path(training.resume_from), f"{section}.resume_from")
        if given is None:
            raise UserError(
                f"{section}.resume_from: {training.resume_from}: no checkpoint, nor a folder of checkpoints"
            )
        return Origin(given)
    if not training.init_weights:
        return Origin()
    path = Path(training.init_weights)
    file = path / "model.safetensors" if path.is_dir() else path
    given = None if file.is_file() else _checkpoint(path, f"{section}.init_weights")
    if given is None and not file.is_file():
        raise UserError(
            f"{section}.init_weights: {path}: no checkpoint, no .safetensors file, and no folder of an exported model"
        )
    return Origin(weights=given or file)


def _checkpoint(path: Path, field: str) -> Path | None:
    """The checkpoint that a path names, itself or by the folder of checkpoints; None if it names none."""
    if not (path / "manifest.json").is_file():
        return checkpoint.newest(path)
    fault = comm.from_main(lambda: checkpoint.verify(path))
    if fault:
        raise UserError(f"{field}: not a whole checkpoint: {fault}")
    return path


def load_weights(model: nn.Module, path: Path) -> None:
    """Put the weights of a checkpoint or a ``.safetensors`` file into a network.

    Raises:
        UserError: it cannot be read, or is of another network.
    """
    try:
        weights: dict[str, Tensor] = checkpoint.consolidate(path) if path.is_dir() else load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as weights ({error})") from None
    theirs, ours = ({name: tuple(t.shape) for name, t in d.items()} for d in (weights, model.state_dict()))
    checkpoint.check_shapes(path, theirs, ours)
    with torch.no_grad():
        model.load_state_dict(weights)
