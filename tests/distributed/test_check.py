"""The check of a supernet with two ranks, killed and resumed. Reference: an uninterrupted check with one rank."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from tests.faults.test_stages_killed import start_and_hit
from tests.helpers.digits import write_digits
from tests.helpers.launching import ROOT, run_commands, run_stage, stage_command

TINY = str(ROOT / "tests" / "fixtures" / "tiny.yaml")


def nets_of(run: Path) -> list[dict[str, Any]]:
    nets: list[dict[str, Any]] = json.loads((run / "search" / "check.json").read_text())["nets"]
    for row in nets:
        del row["seconds"]
    return nets


def test_killed_check_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    write_digits(tmp_path / "digits")
    words = [TINY, f"run.dir={tmp_path}", f"data.train={tmp_path}/digits/train", "retrain.lr=0.01"]
    words += [f"{stage}.{key}" for stage in ("supernet", "retrain") for key in ("init_std=null", "mixing.cutmix=0.0")]
    words += [
        "search.check.nets=8",
        "search.check.steps=40",
        "search.check.correct=true",
        "retrain.drop_path_rate=0.0",
        "retrain.save_minutes=0.01",
    ]
    alone = [["train-supernet", *words, "run.name=alone"], ["search", *words, "run.name=alone"]]
    for result in run_commands(*alone):
        assert result.returncode == 0, result.stdout + result.stderr
    two = [*words, "run.name=two", f"search.checkpoint={tmp_path}/alone/supernet/weights.safetensors"]
    run = tmp_path / "two"
    status, output = start_and_hit(stage_command("search", two), r"check_step", signal.SIGKILL, 0.5)
    assert status != 0 and not (run / "search" / "best.json").exists(), output
    finished = {path.name: path.read_text() for path in (run / "search" / "check").glob("*-40.json")}
    assert len(finished) < 8
    status, output = start_and_hit(stage_command("search", two), r"check_step", signal.SIGTERM)
    assert status == 75 and "networks of the check are saved" in output and "Traceback" not in output
    output = run_stage("search", two, launcher="torchrun")
    assert "Kendall's tau" in output
    for name, text in finished.items():
        assert (run / "search" / "check" / name).read_text() == text
    ours, theirs = nets_of(run), nets_of(tmp_path / "alone")
    assert [row["spec"] for row in ours] == [row["spec"] for row in theirs]
    for name in ("accuracy", "score"):  # one rank per network: the trainings are equal bit for bit
        assert [row[name] for row in ours] == [row[name] for row in theirs]
    assert len({row["accuracy"] for row in ours}) > 1 and max(row["accuracy"] for row in ours) > 0.2
    assert json.loads((run / "summary.json").read_text())["search"]["check"]["nets"] == 8
    best, expected = (json.loads((folder / "search" / "best.json").read_text()) for folder in (run, tmp_path / "alone"))
    assert [row["spec"] for row in best["top"]] == [row["spec"] for row in expected["top"]]
    assert [row["score"] for row in best["top"]] == [row["score"] for row in expected["top"]]
    assert best["score"] != best["supernet_score"]

    # A search without the correction, killed on the way, leaves the results of the one with it.
    measured, before = [*two, "search.check.correct=false"], (run / "search" / "best.json").read_text()
    (run / "search" / "ledger.jsonl").unlink()  # or there is nothing to score
    line = stage_command("search", measured, "alone", 1)  # scores do not depend on the number of ranks
    status, output = start_and_hit(line, r"best ", signal.SIGKILL, target=lambda job: job.pid)
    assert status != 0 and (run / "search" / "best.json").read_text() == before, output
    for result in run_commands(
        ["search", *measured], ["search", *words, "run.name=alone", "search.check.correct=false"]
    ):
        assert result.returncode == 0, result.stdout + result.stderr
    ours, theirs = (
        json.loads((folder / "search" / "best.json").read_text())["top"] for folder in (run, tmp_path / "alone")
    )
    assert [(row["spec"], row["score"]) for row in ours] == [(row["spec"], row["score"]) for row in theirs]
    assert "supernet_score" not in ours[0]
