"""The lines before a training: its estimate and its teacher.

Reference: sizes counted by hand.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from vitas_ds.config import Teacher, Training
from vitas_ds.stages.training import disk_line, teacher_line


@pytest.mark.parametrize("stage", ["train_supernet", "search", "retrain", "evaluate", "export"])
def test_a_stage_starts_without_the_libraries_it_seldom_needs(stage: str) -> None:
    """They double the time of an import, on each rank; matplotlib also needs a writable folder."""
    slow = {"matplotlib", "scipy.stats", "scipy.optimize", "torch._dynamo", "torchvision"}
    code = f"import sys, vitas_ds.stages.{stage}; print(*{slow} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == []


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
