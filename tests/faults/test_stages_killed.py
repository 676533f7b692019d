"""Kill ranks of the stages and ask jobs to stop: the resumed run ends like an uninterrupted one, bit for bit.

Reference: an uninterrupted run, by the fixture of that name.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.helpers.digits import write_digits
from tests.helpers.launching import (
    ROOT,
    command,
    environment,
    run_commands,
    run_stage,
    stage_command,
    start_process,
    wait_for_process,
)

TINY = ROOT / "tests" / "fixtures" / "tiny.yaml"


def stage_args(folder: Path, name: str, *overrides: str) -> list[str]:
    data = [f"data.train={folder}/digits/train", f"data.val={folder}/digits/val"]
    return [str(TINY), f"run.dir={folder}/runs", f"run.name={name}", *data, "supernet.save_every=3", *overrides]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and a run of both stages without interruption."""
    folder = tmp_path_factory.mktemp("faults")
    write_digits(folder / "digits")
    for name in ("train-supernet", "search"):
        run_stage(name, stage_args(folder, "uninterrupted", "supernet.ema_decay=0.9"), launcher="torchrun")
    return folder


def processes_of(job: subprocess.Popen[str], mark: bytes = b"") -> list[int]:
    """Return the process ids of the job with an argument that starts with ``mark``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                args = (entry / "cmdline").read_bytes().split(b"\0")
                session = os.getsid(int(entry.name))
            except OSError:
                continue
            if session == job.pid and any(word.startswith(mark) for word in args):
                found.append(int(entry.name))
    return sorted(found)


def random_rank(job: subprocess.Popen[str]) -> int:
    """Return the process id of some rank of the job.

    Raises:
        ProcessLookupError: The job has ended.
    """
    ranks = processes_of(job, b"--local_rank=")
    if not ranks:
        raise ProcessLookupError("no rank is running")
    return random.choice(ranks)


def start_and_hit(
    args: list[str],
    line: str,
    sig: int,
    delay: float = 0.0,
    target: Callable[[subprocess.Popen[str]], int] = random_rank,
) -> tuple[int, str]:
    """Start a stage and signal a process after a line of output that matches. Returns exit status and output."""
    job = start_process(args, environment(PYTHONUNBUFFERED="1"))
    try:
        output, hit, start = "", False, time.monotonic()
        assert job.stdout is not None
        for text in job.stdout:
            output += text
            if not hit and re.search(line, text):
                time.sleep(delay)
                with suppress(ProcessLookupError):  # it has ended, as the status shows
                    os.kill(target(job), sig)
                hit = True
            assert time.monotonic() - start < 200, output
        assert hit, f"never printed {line}: {output}"
        return job.wait(60), output
    finally:
        for process in processes_of(job):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def start_and_kill(folder: Path, name: str, args: list[str], line: str, sig: int = signal.SIGKILL) -> tuple[int, str]:
    """Start a training and signal a rank after a line. If it has ended before the signal, repeat this start."""
    run, backup = folder / "runs" / name, folder / f"{name}-before"
    for _ in range(5):
        shutil.rmtree(backup, ignore_errors=True)
        if run.exists():
            shutil.copytree(run, backup)
        status, output = start_and_hit(stage_command("train-supernet", args), line, sig)
        if status != 0:
            return status, output
        shutil.rmtree(run)
        if backup.exists():
            backup.rename(run)
    raise AssertionError("five trainings have ended before the signal")


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "supernet" / "checkpoints").iterdir())


def assert_equal_weights(folder: Path, name: str) -> None:
    """Compare the supernet of a run bit for bit with that of the uninterrupted run."""
    resumed, expected = (
        load_file(folder / "runs" / run / "supernet" / "weights.safetensors") for run in (name, "uninterrupted")
    )
    assert resumed.keys() == expected.keys()
    assert all((resumed[key] == expected[key]).all() for key in expected)


def metrics(run: Path) -> list[tuple[str, int, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(x["stage"], x["step"], x["loss"]) for x in lines if x["stage"] == "train-supernet"]


def test_killed_training_ends_like_the_uninterrupted_run(uninterrupted: Path) -> None:
    args = stage_args(uninterrupted, "killed", "supernet.ema_decay=0.9")
    for line in (r"train-supernet +5/20", r"train-supernet +\d+/20"):
        start_and_kill(uninterrupted, "killed", args, line)
    run_stage("train-supernet", args, launcher="torchrun")
    assert_equal_weights(uninterrupted, "killed")
    assert metrics(uninterrupted / "runs" / "killed") == metrics(uninterrupted / "runs" / "uninterrupted")


def test_sigterm_saves_a_checkpoint_and_ends_with_status_75(uninterrupted: Path) -> None:
    args = stage_args(uninterrupted, "asked", "supernet.ema_decay=0.9", "supernet.save_every=1000")
    status, output = start_and_kill(uninterrupted, "asked", args, r"train-supernet +5/20", signal.SIGTERM)
    assert status == 75, output
    assert "stopped after step 10 of 20" in output and "Traceback" not in output
    assert checkpoints(uninterrupted / "runs" / "asked") == ["step-00000010"]
    run_stage("train-supernet", args, launcher="torchrun")
    assert_equal_weights(uninterrupted, "asked")
    assert metrics(uninterrupted / "runs" / "asked") == metrics(uninterrupted / "runs" / "uninterrupted")


@pytest.mark.parametrize("script", ["single_node.sh", "torchrun.sh"])
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT], ids=["terminate", "interrupt"])
def test_a_stopped_script_lets_its_ranks_save(uninterrupted: Path, script: str, sig: int) -> None:
    if not (ROOT / ".venv").exists():
        pytest.skip("the launch scripts need .venv in the checkout")
    name = f"{script}-{sig}"
    args = [
        f"launch/{script}",
        "--stages",
        "train-supernet",
        *stage_args(
            uninterrupted, name, "supernet.save_every=10000", "supernet.epochs=500", "supernet.warmup_epochs=0"
        ),
    ]
    status, output = start_and_hit(args, r"train-supernet +5/5000", sig, target=lambda job: job.pid)
    assert status == 75 and "Traceback" not in output, output
    stopped = re.search(r"stopped after step (\d+) of 5000", output)
    assert stopped, output
    assert checkpoints(uninterrupted / "runs" / name) == [f"step-{int(stopped[1]):08}"]


def test_a_finished_stage_leaves_no_process_group(uninterrupted: Path, tmp_path: Path) -> None:
    """A process that exits with one aborts now and then: its threads are still running."""
    script = tmp_path / "stage.py"
    script.write_text(
        "import sys\n"
        "import torch.distributed as dist\n"
        "from vitas_ds.__main__ import main\n"
        "assert main(sys.argv[1:]) == 0 and not dist.is_initialized()\n"
    )
    args = stage_args(uninterrupted, "uninterrupted", "supernet.ema_decay=0.9")
    line = [*command("torchrun", 2), str(script), "train-supernet", *args]
    assert "done already" in wait_for_process(start_process(line, environment()), line, 120)


def test_a_second_job_names_the_first_and_a_killed_one_does_not_block_the_next(uninterrupted: Path) -> None:
    args = stage_args(uninterrupted, "locked", "supernet.epochs=500", "supernet.warmup_epochs=0")
    line = stage_command("train-supernet", args, "alone", 1)
    seen = []

    def second(job: subprocess.Popen[str]) -> int:
        run = str(uninterrupted / "runs" / "locked")
        seen.extend(run_commands(["train-supernet", *args], ["status", run], ["report", run]))
        return job.pid

    status, output = start_and_hit(line, r"train-supernet +5/", signal.SIGKILL, target=second)
    refused, shown, reported = seen
    assert refused.returncode == 2 and shown.returncode == reported.returncode == 0
    named = r"runs/locked: in use by process \d+ on \S+ \(train-supernet, since "
    assert re.search(named, refused.stderr), refused.stderr
    assert "running" in shown.stdout and status == -signal.SIGKILL and "Traceback" not in output
    status, output = start_and_hit(line, r"train-supernet +\d+/", signal.SIGTERM, target=lambda job: job.pid)
    assert status == 75 and "resuming at step" in output, output


def test_killed_search_scores_nothing_twice_and_finds_the_same(uninterrupted: Path) -> None:
    weights = uninterrupted / "runs" / "uninterrupted" / "supernet" / "weights.safetensors"
    args = stage_args(uninterrupted, "searched", "supernet.ema_decay=0.9", f"search.checkpoint={weights}")
    status, _ = start_and_hit(stage_command("search", args), r"search +\d+/12", signal.SIGKILL)
    assert status != 0
    ledger = uninterrupted / "runs" / "searched" / "search" / "ledger.jsonl"
    before = ledger.read_text()
    with ledger.open("a") as file:
        file.write('{"spec": {"image_size": 28, "pat')  # a line cut off by the kill
    run_stage("search", args, launcher="torchrun")
    after = ledger.read_text()
    assert after.startswith(before)

    def scores(run: str) -> list[tuple[str, int, float]]:
        lines = map(json.loads, (uninterrupted / "runs" / run / "search" / "ledger.jsonl").open())
        return sorted((json.dumps(x["spec"]), x["images"], x["score"]) for x in lines)

    assert scores("searched") == scores("uninterrupted")
    assert len(scores("searched")) == len(set(scores("searched")))
    for name in ("pareto.json", "best.json"):
        fronts = [
            json.loads((uninterrupted / "runs" / run / "search" / name).read_text())
            for run in ("searched", "uninterrupted")
        ]
        for front in fronts:
            for row in front if isinstance(front, list) else [front, *front["top"]]:
                row.pop("seconds", None)
        assert fronts[0] == fronts[1]


def test_a_damaged_checkpoint_is_skipped(uninterrupted: Path) -> None:
    args = stage_args(uninterrupted, "damaged", "supernet.ema_decay=0.9", "supernet.save_every=1")
    start_and_hit(stage_command("train-supernet", args), r"train-supernet +5/20", signal.SIGKILL)
    folder = uninterrupted / "runs" / "damaged" / "supernet" / "checkpoints"
    newest = sorted(folder.glob("step-*"))[-1]
    shard = sorted(newest.glob("shard-*"))[-1]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(data)
    output = run_stage("train-supernet", args, launcher="torchrun")
    assert "checkpoint skipped" in output and str(shard) in output
    assert_equal_weights(uninterrupted, "damaged")
