"""Two minutes of the attack with a fixed seed find no problem."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers.launching import environment
from tests.helpers.paths import ROOT


@pytest.mark.long
def test_attack() -> None:
    command = [sys.executable, "-m", "tests.faults.attack", "--minutes", "2"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
