"""Two nodes under launch/multi_node.sh (deepspeed launcher, pdsh, ssh): a node fails, and the job resumes later.

Reference: an uninterrupted run on one machine.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.helpers import nodes
from tests.helpers.digits import write_digits
from tests.helpers.launching import ROOT, environment, free_port, run_stage, start_process
from tests.helpers.nodes import Node

TINY = ROOT / "tests" / "fixtures" / "tiny.yaml"
PYTHON = ROOT / ".venv" / "bin" / "python"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[list[Node]]:
    """Two nodes. Nodes that a test adds to the list are switched off at the end."""
    reason = nodes.unavailable() or ("" if PYTHON.exists() else "launch/multi_node.sh needs .venv in the checkout")
    if reason:
        pytest.skip(reason)
    nodes.prepare(tmp_path)
    living = [Node(tmp_path, "node1", "10.77.0.1"), Node(tmp_path, "node2", "10.77.0.2")]
    try:
        nodes.connect(*living, f"v{free_port()}")
        yield living
    finally:
        for node in living:
            node.switch_off()


def start(folder: Path, first: Node, args: list[str]) -> subprocess.Popen[str]:
    """Start the job on the first node."""
    (folder / "hosts").write_text("10.77.0.1 slots=1\n10.77.0.2 slots=1\n")
    carried = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": nodes.DEVICE}
    (folder / "environment").write_text("".join(f"{name}={value}\n" for name, value in carried.items()))
    env = environment(DS_ENV_FILE=str(folder / "environment"), **carried)
    env["PATH"] = f"{folder}/bin:{env['PATH']}:/usr/sbin"
    script = [str(ROOT / "launch" / "multi_node.sh"), "--hostfile", str(folder / "hosts"), "--stages", "train-supernet"]
    return start_process(first.command_line(*script, *args), env)


@pytest.mark.slow
def test_a_failed_node_ends_the_job_which_resumes_later(tmp_path: Path, pair: list[Node]) -> None:
    write_digits(tmp_path / "digits")
    args = [str(TINY), f"data.train={tmp_path}/digits/train", "supernet.save_every=5", "supernet.epochs=10"]
    args += ["supernet.log_every=5", f"run.dir={tmp_path}"]
    first, second = pair
    job = start(tmp_path, first, args)
    assert job.stdout is not None
    output = ""
    for text in job.stdout:
        output += text
        if re.search(r"train-supernet +\d+/", text):
            break
    else:
        raise AssertionError(output)
    while not list(tmp_path.glob("tiny/supernet/checkpoints/step-*")) and job.poll() is None:
        time.sleep(0.05)
    start_time = time.monotonic()
    second.unplug()
    second.switch_off()
    rest, _ = job.communicate(timeout=120)
    seconds = time.monotonic() - start_time
    lines = re.findall(r"vitas train-supernet: .*", rest)
    print(f"{seconds:.0f} s: {lines}")
    assert job.returncode != 0 and seconds < 75, rest  # 60, plus the time until ssh gives up
    assert len(lines) == 1 and re.search(r"rank 1 \(host node2, .*no sign of life.*noticed by rank 0 while", lines[0])
    assert "Traceback" not in rest

    pair[1] = Node(tmp_path, "node2", "10.77.0.2")  # the node returns, on a new cable
    nodes.connect(first, pair[1], f"v{free_port()}")
    job = start(tmp_path, first, args)
    rest, _ = job.communicate(timeout=240)
    assert job.returncode == 0, rest
    assert "resuming at step" in rest
    run_stage("train-supernet", [*args, "run.name=uninterrupted"])
    resumed, expected = (
        load_file(tmp_path / name / "supernet" / "weights.safetensors") for name in ("tiny", "uninterrupted")
    )
    assert all((resumed[name] == expected[name]).all() for name in expected)
