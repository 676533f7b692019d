"""Ranks that are killed, and jobs that are told to stop: started again, a run ends as if nothing had been."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.helpers.digits import write_digits
from tests.helpers.launching import ROOT, begin, environment, run_stage, stage_words

TINY = ROOT / "tests" / "fixtures" / "tiny.yaml"


def words_of(folder: Path, name: str, *overrides: str) -> list[str]:
    data = [f"data.train={folder}/digits/train", f"data.val={folder}/digits/val"]
    return [str(TINY), f"run.dir={folder}/runs", f"run.name={name}", *data, "supernet.save_every=3", *overrides]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and a run whose stages were left alone."""
    folder = tmp_path_factory.mktemp("faults")
    write_digits(folder / "digits")
    for name in ("train-supernet", "search"):
        run_stage(name, words_of(folder, "unbroken", "supernet.ema_decay=0.9"))
    return folder


def processes_of(job: subprocess.Popen[str], mark: bytes = b"") -> list[int]:
    """Process ids of the job that have a word that begins with ``mark``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                session = os.getsid(int(entry.name))
            except OSError:
                continue
            if session == job.pid and any(word.startswith(mark) for word in words):
                found.append(int(entry.name))
    return sorted(found)


def a_rank(job: subprocess.Popen[str]) -> int:
    ranks = processes_of(job, b"--local_rank=")
    assert ranks, "no rank is running"
    return random.choice(ranks)


def start_and_hit(
    words: list[str],
    line: str,
    sig: int,
    delay: float = 0.0,
    whom: Callable[[subprocess.Popen[str]], int] = a_rank,
) -> tuple[int, str]:
    """Start a stage, send a process a signal once it has printed a line that matches; (exit status, output)."""
    job = begin(words, environment(PYTHONUNBUFFERED="1"))
    try:
        output, hit, begun = "", False, time.monotonic()
        assert job.stdout is not None
        for text in job.stdout:
            output += text
            if not hit and re.search(line, text):
                time.sleep(delay)
                os.kill(whom(job), sig)
                hit = True
            assert time.monotonic() - begun < 200, output
        assert hit, f"never printed {line}: {output}"
        return job.wait(60), output
    finally:
        for process in processes_of(job):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "supernet" / "checkpoints").iterdir())


def metrics(run: Path) -> list[tuple[str, int, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(x["stage"], x["step"], x["loss"]) for x in lines if x["stage"] == "train-supernet"]


def test_killed_training_ends_as_the_unbroken_run(unbroken: Path) -> None:
    words = words_of(unbroken, "killed", "supernet.ema_decay=0.9")
    for delay in (0.0, random.random()):
        line = stage_words("train-supernet", words)
        status, _ = start_and_hit(line, r"train-supernet +\d+/20" if delay else r"train-supernet +5/20",
                                  signal.SIGKILL, delay)  # fmt: skip
        assert status != 0
    run_stage("train-supernet", words)
    ours, theirs = (
        load_file(unbroken / "runs" / name / "supernet" / "weights.safetensors") for name in ("killed", "unbroken")
    )
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)
    assert metrics(unbroken / "runs" / "killed") == metrics(unbroken / "runs" / "unbroken")


def test_sigterm_saves_and_says_start_again(unbroken: Path) -> None:
    words = words_of(unbroken, "asked", "supernet.ema_decay=0.9", "supernet.save_every=1000")
    status, output = start_and_hit(stage_words("train-supernet", words), r"train-supernet +5/20", signal.SIGTERM)
    assert status == 75, output
    assert "stopped after step 10 of 20" in output and "Traceback" not in output
    assert checkpoints(unbroken / "runs" / "asked") == ["step-00000010"]
    run_stage("train-supernet", words)
    ours, theirs = (
        load_file(unbroken / "runs" / name / "supernet" / "weights.safetensors") for name in ("asked", "unbroken")
    )
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert metrics(unbroken / "runs" / "asked") == metrics(unbroken / "runs" / "unbroken")


@pytest.mark.parametrize("script", ["single_node.sh", "torchrun.sh"])
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT], ids=["terminate", "interrupt"])
def test_a_script_that_is_told_to_stop_lets_its_ranks_save(unbroken: Path, script: str, sig: int) -> None:
    if not (ROOT / ".venv").exists():
        pytest.skip("the scripts run what is in .venv")
    name = f"{script}-{sig}"
    words = [f"launch/{script}", "--stages", "train-supernet", *words_of(unbroken, name, "supernet.save_every=1000")]
    status, output = start_and_hit(words, r"train-supernet +5/20", sig, whom=lambda job: job.pid)
    own = script == "single_node.sh"  # torchrun has a status and a traceback of its own, whatever its ranks say
    assert status == (75 if own else 1) and own != ("Traceback (most recent" in output), output
    assert "stopped after step 10 of 20" in output
    assert checkpoints(unbroken / "runs" / name) == ["step-00000010"]


def test_killed_search_repeats_nothing_and_finds_the_same(unbroken: Path) -> None:
    weights = unbroken / "runs" / "unbroken" / "supernet" / "weights.safetensors"
    words = words_of(unbroken, "searched", "supernet.ema_decay=0.9", f"search.checkpoint={weights}")
    status, _ = start_and_hit(stage_words("search", words), r"search +\d+/12", signal.SIGKILL)
    assert status != 0
    ledger = unbroken / "runs" / "searched" / "search" / "ledger.jsonl"
    before = ledger.read_text()
    with ledger.open("a") as file:
        file.write('{"spec": {"image_size": 28, "pat')  # killed in the middle of a line
    run_stage("search", words)
    after = ledger.read_text()
    assert after.startswith(before)

    def scores(run: str) -> list[tuple[str, int, float]]:
        lines = map(json.loads, (unbroken / "runs" / run / "search" / "ledger.jsonl").open())
        return sorted((json.dumps(x["spec"]), x["images"], x["score"]) for x in lines)

    assert scores("searched") == scores("unbroken")
    assert len(scores("searched")) == len(set(scores("searched")))
    for name in ("pareto.json", "best.json"):
        fronts = [
            json.loads((unbroken / "runs" / run / "search" / name).read_text()) for run in ("searched", "unbroken")
        ]
        for front in fronts:
            for row in front if isinstance(front, list) else [front, *front["top"]]:
                row.pop("seconds", None)
        assert fronts[0] == fronts[1]


def test_a_damaged_checkpoint_is_passed_over(unbroken: Path) -> None:
    words = words_of(unbroken, "damaged", "supernet.ema_decay=0.9", "supernet.save_every=2")
    start_and_hit(stage_words("train-supernet", words), r"train-supernet +5/20", signal.SIGKILL)
    folder = unbroken / "runs" / "damaged" / "supernet" / "checkpoints"
    newest = sorted(folder.glob("step-*"))[-1]
    shard = sorted(newest.glob("shard-*"))[-1]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(data)
    output = run_stage("train-supernet", words)
    assert "passed over" in output and str(shard) in output
    ours, theirs = (
        load_file(unbroken / "runs" / name / "supernet" / "weights.safetensors") for name in ("damaged", "unbroken")
    )
    assert all((ours[name] == theirs[name]).all() for name in theirs)
