"""Finalists with two ranks under their launcher: stopped, killed, and compared with one rank.

References: an uninterrupted search with two ranks, and one with a single rank.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from tests.faults.test_stages_killed import start_and_hit
from tests.helpers.digits import write_digits
from tests.helpers.launching import ROOT, environment, run_stage, stage_command
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.recipe import load
from vitas_ds.run.run_dir import RunDir

TINY = ROOT / "tests" / "fixtures" / "tiny.yaml"
# Rungs of three and one candidates: first two groups of one rank, then one group of two
FINALISTS = ("search.finalists.count=3", "search.finalists.steps=200", "search.finalists.keep=0.3")
AUGMENTED = ("retrain.drop_path_rate=0.3", "retrain.mixing.mixup=0.5", "retrain.ema_decay=0.5")


def words(folder: Path, name: str, *overrides: str) -> list[str]:
    paths = [f"run.dir={folder}/runs", f"run.name={name}", f"search.checkpoint={folder}/supernet.safetensors"]
    return [str(TINY), f"data.train={folder}/digits/train", *paths, *FINALISTS, *AUGMENTED, *overrides]


def results(folder: Path, name: str) -> tuple[list[dict[str, Any]], Any]:
    """Return the lines of the finalists and the best candidates, without durations."""
    run = RunDir(folder / "runs" / name)
    rows = [json.loads(line) for line in run.finalists.read_text().splitlines()]
    best = json.loads(run.best.read_text())
    return [_without_seconds(row) for row in rows], [_without_seconds(row) for row in best["top"]]


def _without_seconds(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "seconds"}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, an untrained supernet, and a finished search."""
    folder = tmp_path_factory.mktemp("finalists")
    write_digits(folder / "digits")
    space = load(str(TINY), []).space
    supernet = Supernet(space, "bilateral", 2)
    init_weights(supernet, 0, None)
    save_file(supernet.state_dict(), folder / "supernet.safetensors")
    output = run_stage("search", words(folder, "uninterrupted"), launcher="torchrun")
    assert "3 candidates to step 60, 1 to 200" in output
    return folder


def test_finalists_stopped_and_killed_end_like_uninterrupted_ones(uninterrupted: Path) -> None:
    """Asked to stop in the first rung, where the ranks train on their own, and killed in the second one."""
    line = stage_command("search", words(uninterrupted, "killed"))
    status, output = start_and_hit(line, r"finalist \d+  finalist_step [1-4]0", signal.SIGTERM)
    assert status == 75 and "the finalists are saved; start it again to resume" in output, output
    assert "Traceback" not in output
    run = RunDir(uninterrupted / "runs" / "killed")
    assert not run.best.exists() and not run.finalists.exists()
    assert list(run.finalist_states.glob("*.safetensors"))
    line = stage_command("search", words(uninterrupted, "killed", "retrain.save_minutes=0.001"))
    status, output = start_and_hit(line, r"rung 1 of 2", signal.SIGKILL, delay=1.0)
    assert status != 0 and not run.best.exists()
    run_stage("search", words(uninterrupted, "killed"), launcher="torchrun")
    assert results(uninterrupted, "killed") == results(uninterrupted, "uninterrupted")


def test_one_rank_has_the_results_of_two_except_for_rounding(uninterrupted: Path) -> None:
    """Mixing, drop path and averages included. Longer trainings would amplify the rounding."""
    found = []
    for ranks, launcher in ((1, "alone"), (2, "torchrun")):
        run_stage("search", words(uninterrupted, launcher, "search.finalists.steps=20"), launcher, ranks)
        found.append(results(uninterrupted, launcher)[0])
    for one, two in zip(*found, strict=True):
        assert one.pop("loss") == pytest.approx(two.pop("loss"), rel=1e-6)
        assert one == two
    assert [row["step"] for row in found[0]] == [6, 6, 6, 20]


def test_other_settings_and_a_finished_search(uninterrupted: Path) -> None:
    """A finished search does nothing; with other settings it names what differs and trains nothing."""
    run = RunDir(uninterrupted / "runs" / "uninterrupted")
    before = run.finalists.read_bytes()
    done = run_stage("search", words(uninterrupted, "uninterrupted"), launcher="alone", ranks=1)
    assert "search: done already" in done
    line = stage_command("search", words(uninterrupted, "uninterrupted", "search.finalists.steps=300"), "alone", 1)
    other = subprocess.run(line, env=environment(), cwd=ROOT, text=True, capture_output=True, timeout=120)
    errors = [text for text in other.stderr.splitlines() if text.startswith("vitas search: ")]
    assert other.returncode == 2 and len(errors) == 1 and "Traceback" not in other.stderr
    assert re.search(
        r"search/finalists: .*search\.finalists\.steps=200 \(now 300\); restore this, or remove", errors[0]
    )
    assert run.finalists.read_bytes() == before
