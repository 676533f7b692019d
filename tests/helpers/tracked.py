"""A run to track, without its files."""

from __future__ import annotations

from pathlib import Path

from vitas_ds.config import Config
from vitas_ds.run.run_dir import RunDir


def make(root: Path, wandb: str = "disabled") -> tuple[Config, RunDir]:
    config = Config.model_validate({"run": {"name": "a", "dir": str(root)}, "tracking": {"wandb": wandb}})
    return config, RunDir(root / "a")
