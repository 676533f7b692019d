"""A rank that hangs or dies ends the job in time, with one line that says which rank it was and where it stood."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from digits import write_digits
from launching import ROOT, begin, environment, stage_words

TINY = ROOT / "tests" / "fixtures" / "tiny.yaml"
TIMEOUT = 10


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("hang") / "digits")


def words_of(folder: Path, digits: Path) -> list[str]:
    data = [f"data.train={digits}/train", "supernet.epochs=2000", "supernet.save_every=1000", "supernet.log_every=2"]
    return [str(TINY), f"run.dir={folder}", f"run.timeout={TIMEOUT}", *data]


def rank_pids(job: subprocess.Popen[str]) -> dict[int, int]:
    """Process id of each rank of a job."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getsid(int(entry.name)) == job.pid:
                words = (entry / "environ").read_bytes().split(b"\0")
                ranks = [int(word[5:]) for word in words if word.startswith(b"RANK=")]
                if ranks and b"vitas_ds" in (entry / "cmdline").read_bytes():
                    found[ranks[0]] = int(entry.name)
        except OSError:
            continue
    return found


def harm(words: list[str], hurt: Callable[[dict[int, int]], None]) -> tuple[int, str, float]:
    """Start a training, harm it once it is on its way; (exit status, what it said afterwards, seconds it took)."""
    job = begin(stage_words("train-supernet", words), environment(PYTHONUNBUFFERED="1"))
    try:
        assert job.stdout is not None
        before = ""
        for text in job.stdout:
            before += text
            if re.search(r"train-supernet +\d+/", text):
                break
        else:
            raise AssertionError(before)
        begun = time.monotonic()
        hurt(rank_pids(job))
        output, _ = job.communicate(timeout=60)
        return job.returncode, output, time.monotonic() - begun
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)


def the_line(output: str) -> str:
    """The one line of all ranks."""
    assert "Traceback" not in output, output
    lines = [line for line in output.splitlines() if line.startswith("vitas ")]
    assert len(lines) == 1, output
    print(lines[0])
    return lines[0]


def test_a_stopped_rank(tmp_path: Path, digits: Path) -> None:
    """Rank 0, on which the others depend most."""
    status, output, seconds = harm(words_of(tmp_path, digits), lambda pids: os.kill(pids[0], signal.SIGSTOP))
    line = the_line(output)
    assert status != 0
    assert seconds < 3 * TIMEOUT, output
    assert re.search(r"train-supernet: rank 0 \(host .*no sign of life.*rank 1 missed it while [a-z ]+, step \d", line)


def test_a_dead_rank(tmp_path: Path, digits: Path) -> None:
    status, output, seconds = harm(words_of(tmp_path, digits), lambda pids: os.kill(pids[1], signal.SIGKILL))
    assert status != 0 and seconds < TIMEOUT
    assert re.search(r"train-supernet: rank 1 \(host .*died without a word.* step \d", the_line(output))
    tracebacks = [path.read_text() for path in (tmp_path / "tiny" / "life").glob("*.txt")]
    assert len(tracebacks) == 1 and "Traceback" in tracebacks[0]


def test_images_that_do_not_come(tmp_path: Path, digits: Path) -> None:
    """An image becomes a pipe that nobody writes into: who reads it waits for ever, as on a file server that hangs."""
    folder = write_digits(tmp_path / "digits")

    def stall(pids: dict[int, int]) -> None:
        for image in (folder / "train" / "3").iterdir():
            image.unlink()
            os.mkfifo(image)

    status, output, seconds = harm(words_of(tmp_path, folder), stall)
    assert status != 0 and seconds < 3 * TIMEOUT
    who = r"(rank \d \(.*\) hangs|all ranks hang, though they are alive)"  # as the images fall
    assert re.search(rf"{who}: waiting for data, step \d+ for run.timeout = 10 s", the_line(output))
