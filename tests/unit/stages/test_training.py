"""The lines before a training: its estimate and its teacher.

Reference: sizes counted by hand.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from vitas_ds.config import Teacher, Training
from vitas_ds.stages.training import disk_line, teacher_line


@pytest.mark.parametrize("stage", ["train_supernet", "retrain"])
def test_a_training_starts_without_matplotlib(stage: str) -> None:
    """Matplotlib needs a writable folder when it is imported."""
    code = f"import sys, vitas_ds.stages.{stage}; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_disk_of_a_training() -> None:
    """A million parameters: 12 MB per checkpoint (weights and two moments), 16 MB with averaged weights."""
    assert disk_line(Training(keep=2, keep_best=True), 10**6) == "52 MB on disk (up to 4 checkpoints)"
    assert disk_line(Training(keep=1, keep_best=False, ema_decay=0.9), 10**6) == "36 MB on disk (up to 2 checkpoints)"
    kept = disk_line(Training(keep_every=5000, save_every=1000), 10**6)
    assert kept == "12 MB on disk per checkpoint, one of which stays every 5,000 steps"


def test_the_teacher_is_named() -> None:
    assert teacher_line(Teacher(model="runs/big")) == "learns from runs/big, soft labels with weight 0.5"
    hard = Teacher(model="timm:resnet18", weights="net.pth", kind="hard", weight=1)
    assert teacher_line(hard) == "learns from timm:resnet18 with net.pth, hard labels with weight 1"
    assert teacher_line(Teacher(model="init")).startswith("learns from the network of supernet.init, soft labels")
