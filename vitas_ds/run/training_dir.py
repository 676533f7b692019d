"""Paths of the folder of a training stage in a run, see run_dir.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainingDir:
    """Paths of one training stage: ``supernet/`` or ``retrain/``."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of the ZeRO checkpoints."""
        return self.path / "checkpoints"

    @property
    def images(self) -> Path:
        """Picture of the first training batch."""
        return self.path / "images.png"

    @property
    def trace(self) -> Path:
        """Chrome trace of the steps of ``engine.profile``."""
        return self.path / "trace.json.gz"

    @property
    def operators(self) -> Path:
        """Most expensive operators of these steps."""
        return self.path / "operators.json"

    @property
    def result(self) -> Path:
        """Headline numbers of the stage, written before its product."""
        return self.path / "result.json"

    @property
    def divergence(self) -> Path:
        """Record of the latest steps with a non-finite gradient; ``--replay`` reads it."""
        return self.path / "divergence.json"
