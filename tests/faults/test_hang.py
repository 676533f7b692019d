"""A rank that hangs or dies ends the job in time, with one line that names the rank and its activity.

Reference: the rank that the test harms itself, and the time limit of the run.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests.helpers.digits import write_digits
from tests.helpers.launching import ROOT, environment, stage_command, start_process
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.data.sources import write_index
from vitas_ds.distributed.supervisor import parent_of
from vitas_ds.export.folder import Preprocess, write_model
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.recipe import load

TINY = ROOT / "tests" / "fixtures" / "tiny.yaml"
TIMEOUT = 10


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("hang") / "digits")


def stage_args(folder: Path, digits: Path) -> list[str]:
    data = [f"data.train={digits}/train", "supernet.epochs=2000", "supernet.save_every=1000", "supernet.log_every=2"]
    return [str(TINY), f"run.dir={folder}", f"run.timeout={TIMEOUT}", *data]


def rank_pids(job: subprocess.Popen[str]) -> dict[int, int]:
    """Return the process id of each rank of a job: the process that a supervisor of the same rank has started."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getsid(int(entry.name)) == job.pid:
                args = (entry / "environ").read_bytes().split(b"\0")
                ranks = [int(word[5:]) for word in args if word.startswith(b"RANK=")]
                if ranks and b"vitas_ds" in (entry / "cmdline").read_bytes():
                    found[int(entry.name)] = ranks[0]
        except OSError:
            continue
    # ids may have started again from small ones
    parents = {pid: parent_of(pid) for pid in found}
    return {rank: pid for pid, rank in found.items() if parents[pid] in found and parents[parents[pid]] not in found}


def harm(
    args: list[str], hurt: Callable[[dict[int, int]], None], stage: str = "train-supernet"
) -> tuple[int, str, float]:
    """Start a stage and harm it after its first step. Returns exit status, later output, seconds until the end."""
    job = start_process(stage_command(stage, args), environment(PYTHONUNBUFFERED="1"))
    try:
        assert job.stdout is not None
        before = ""
        for text in job.stdout:
            before += text
            if re.search(rf"{stage} +\d+/", text):
                break
        else:
            raise AssertionError(before)
        start = time.monotonic()
        hurt(rank_pids(job))
        output, _ = job.communicate(timeout=90)
        return job.returncode, output, time.monotonic() - start
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)


def error_line(output: str) -> str:
    """Return the only error line of all ranks."""
    assert "Traceback" not in output, output
    lines = [line for line in output.splitlines() if line.startswith("vitas ")]
    assert len(lines) == 1, output
    print(lines[0])
    return lines[0]


def test_a_stopped_rank_ends_the_job(tmp_path: Path, digits: Path) -> None:
    """Stop rank 0, on which the other ranks depend most."""
    status, output, seconds = harm(stage_args(tmp_path, digits), lambda pids: os.kill(pids[0], signal.SIGSTOP))
    line = error_line(output)
    assert status == 69
    assert seconds < 3 * TIMEOUT, output
    assert re.search(r"train-supernet: rank 0 \(host .*no sign of life.*noticed by rank 1 while [a-z ]+, step \d", line)


def test_a_killed_rank_ends_the_job(tmp_path: Path, digits: Path) -> None:
    status, output, seconds = harm(stage_args(tmp_path, digits), lambda pids: os.kill(pids[1], signal.SIGKILL))
    assert status == 69 and seconds < TIMEOUT
    assert re.search(r"train-supernet: rank 1 \(host .*died without an error message.* step \d", error_line(output))
    tracebacks = [path.read_text() for path in (tmp_path / "tiny" / "life").glob("*.txt")]
    assert len(tracebacks) == 1 and "Traceback" in tracebacks[0]


def test_an_image_that_blocks_ends_the_job(tmp_path: Path) -> None:
    """Replace images by named pipes without a writer: reading one blocks forever, as on a hanging file server."""
    folder = write_digits(tmp_path / "digits")

    def stall(pids: dict[int, int]) -> None:
        for image in (folder / "train" / "3").iterdir():
            image.unlink()
            os.mkfifo(image)

    status, output, seconds = harm(stage_args(tmp_path, folder), stall)
    assert status == 69 and seconds < 3 * TIMEOUT
    # depends on which rank reads the pipe first
    who = r"(rank \d \(.*\) hangs|all ranks are alive, but none makes progress)"
    assert re.search(rf"{who}: waiting for data, step \d+ for run.timeout = 10 s", error_line(output))
    stacks = [path.read_text() for path in (tmp_path / "tiny" / "life").glob("*.txt")]
    assert stacks and "trainer.py" in stacks[0]  # shows where the rank waits


def test_a_killed_rank_ends_the_search(tmp_path: Path, digits: Path) -> None:
    """Kill a rank of a search with random weights. Scored candidates stay in the ledger."""
    resolved = load(str(TINY), [])
    net = Supernet(resolved.space, resolved.supernet.sharing, resolved.supernet.private_attention)
    init_weights(net, 0)
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    args = [*stage_args(tmp_path, digits), f"search.checkpoint={tmp_path}/weights.safetensors"]
    args += ["search.generations=5000", "search.population=40", "search.macs=null"]
    status, output, seconds = harm(args, lambda pids: os.kill(pids[1], signal.SIGKILL), "search")
    assert status == 69 and seconds < 60, output  # the survivor may be sampling candidates, which needs no other rank
    expected = r"search: rank 1 \(host .*died without an error message.*; noticed by rank 0 while "
    assert re.search(expected, error_line(output))
    ledger = (tmp_path / "tiny" / "search" / "ledger.jsonl").read_text()
    assert ledger.count("\n") >= 2  # the first progress line follows one candidate of each rank


@pytest.mark.parametrize("hangs", [True, False], ids=["an image that blocks", "a broken image"])
def test_one_failing_rank_ends_the_evaluation(tmp_path: Path, digits: Path, hangs: bool) -> None:
    """Rank 1 evaluates the second half of the images. Rank 0 waits for it only at the end."""
    spec = SubnetSpec(28, 7, 32, 10, (LayerSpec(2, 96, 64),))
    net = VisionTransformer(spec)
    init_weights(net, 0)
    write_model(net, tmp_path / "net", Preprocess(28, (0.5,) * 3, (0.5,) * 3, [str(i) for i in range(10)]), "net", {})
    images = write_digits(tmp_path / "digits") / "val"
    victim = sorted((images / "9").iterdir())[0]
    if hangs:
        write_index(images)  # otherwise the start would leave a pipe out of the list
        before = victim.parent.stat()
        victim.unlink()
        os.mkfifo(victim)
        os.utime(victim.parent, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        victim.write_text("not an image")
    args = [*stage_args(tmp_path, digits), f"data.val={images}", f"evaluate.model={tmp_path}/net", "run.timeout=30"]
    job = start_process(stage_command("evaluate", args), environment())
    start = time.monotonic()
    try:
        output, _ = job.communicate(timeout=240)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    print(f"{time.monotonic() - start:.0f} s, mostly startup")
    assert job.returncode != 0
    who = r"(rank 1 \(.*\) hangs|all ranks are alive, but none makes progress)"  # if both start slowly
    expected = f"evaluate: {who}: waiting for data for run.timeout = 30 s" if hangs else re.escape(str(victim))
    assert re.search(expected, error_line(output))
