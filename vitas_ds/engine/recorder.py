"""Record what DeepSpeed's ``save_checkpoint`` would write.

The collectives of ``save_checkpoint`` surround its writing. If a rank cannot write, the others wait for it until their
time limit. So nothing is written inside it: ``training.checkpoint`` writes the content afterwards, in a thread.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

UNIVERSAL_INFO = {"universal_checkpoint_version": 0.4}  # without it, ds_to_universal refuses the checkpoint


class _Recorder:
    """Takes the place of DeepSpeed's checkpoint engine.

    Attributes:
        files: Content of each file, by name.
    """

    def __init__(self) -> None:
        self.files: dict[str, Any] = {}

    def save(self, state_dict: Any, path: str) -> None:
        """Record the content of a file."""
        self.files[Path(path).name] = state_dict

    def create(self, info: object) -> None:
        """Do nothing when DeepSpeed starts to save."""

    def commit(self, info: object) -> bool:
        """Do nothing when DeepSpeed has saved."""
        return True

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Create no folder."""

    def is_decoupled(self) -> bool:
        """Return whether files are written after DeepSpeed asks for it, which would change its calls."""
        return False

    def preserves_storage_sharing(self) -> bool:
        """Return whether a view is saved with the whole tensor; the copy of the content separates them."""
        return False


def files_of(engine: Any, step: int, client_state: dict[str, Any]) -> dict[str, Any]:
    """Return the content of the files of this rank, by name. It shares memory with the engine.

    Args:
        engine: The DeepSpeed engine. All ranks must call this.
        step: Number of finished steps. DeepSpeed itself does not count those of stages 0 and 1.
        client_state: Further entries of the model files.
    """
    recorder, original = _Recorder(), engine.checkpoint_engine
    engine.global_steps = step
    engine.checkpoint_engine = recorder
    engine._copy_recovery_script = lambda save_path: None  # it writes zero_to_fp32.py next to the tag
    try:
        engine.save_checkpoint(
            "unused", tag="unused", client_state=client_state | {"universal_checkpoint_info": UNIVERSAL_INFO},
            save_latest=False,
        )  # fmt: skip
    finally:
        engine.checkpoint_engine = original
        del engine._copy_recovery_script
    return recorder.files
