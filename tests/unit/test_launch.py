"""The launch scripts without GPUs, nodes, Slurm or Docker: style, arguments, and what they would start."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGES = ["train-supernet", "search", "retrain", "evaluate", "export", "report"]
SCRIPTS = [*sorted((ROOT / "launch").glob("*.sh")), ROOT / "launch" / "slurm.sbatch", ROOT / ".ci" / "run"]
HOSTS = "node-a slots=8\n# a comment\nnode-b slots=8\n"


def launch(script: str, *words: str, **env: str) -> subprocess.CompletedProcess:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "WANDB_"))} | env
    return subprocess.run(
        ["bash", str(ROOT / "launch" / script), *words], capture_output=True, text=True, env=env, timeout=60
    )


def commands(done: subprocess.CompletedProcess) -> list[list[str]]:
    assert done.returncode == 0, done.stderr
    return [shlex.split(line[2:]) for line in done.stdout.splitlines() if line.startswith("+ ")]


def test_shellcheck():
    own = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(own) if own.exists() else shutil.which("shellcheck")
    if not shellcheck:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, "-x", *map(str, SCRIPTS)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_syntax_and_mode(script):
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    assert os.access(script, os.X_OK) == (script.name not in ("lib.sh", "slurm.sbatch"))


def test_single_node():
    words = ["quickstart", "run.seed=3", "search.macs=[1e6, 2e6]"]
    lines = commands(launch("single_node.sh", "--dry-run", "--gpus", "4", *words))
    assert [line[line.index("vitas_ds") + 1] for line in lines] == STAGES
    assert all(line[-3:] == words for line in lines)  # quoted so that a space survives
    for line in lines[:4]:
        assert line[0] == "deepspeed" and line[line.index("--num_gpus") + 1] == "4"
    assert [line[0] for line in lines[4:]] == ["python", "python"]


def test_gpus_are_counted():
    (line,) = commands(launch("single_node.sh", "--dry-run", "--stages", "search", "r", CUDA_VISIBLE_DEVICES="1,2,5"))
    assert line[line.index("--num_gpus") + 1] == "3"


def test_multi_node(tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text(HOSTS)
    lines = commands(launch("multi_node.sh", "--hostfile", str(hosts), "--dry-run", "vitas_1g_bcnet", MASTER_PORT="77"))
    assert [line[line.index("vitas_ds") + 1] for line in lines] == STAGES
    first = lines[0]
    assert first[first.index("--master_addr") + 1] == "node-a" and first[first.index("--master_port") + 1] == "77"
    hosts.write_text("node-a 8\n")
    done = launch("multi_node.sh", "--hostfile", str(hosts), "--dry-run", "vitas_1g_bcnet")
    assert done.returncode == 2 and "slots=N" in done.stderr


def test_slurm_by_a_scontrol_of_our_own(tmp_path):
    """Two nodes: the first is the master, each stage one srun, export and report one task."""
    (tmp_path / "scontrol").write_text('#!/bin/sh\n[ "$2" = hostnames ] && printf "n7\\nn8\\n"\n')
    (tmp_path / "scontrol").chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "41", "SLURM_JOB_NODELIST": "n[7-8]"}
    done = launch("slurm.sbatch", "--dry-run", "r.yaml", "a.b=1", **env, SLURM_SUBMIT_DIR=str(ROOT))
    lines = commands(done)
    assert "master n7:20041" in done.stdout
    assert [line[line.index("vitas_ds") + 1] for line in lines] == STAGES
    assert all(line[0] == "srun" for line in lines) and "--ntasks=1" in lines[-1] and "--ntasks=1" not in lines[0]


@pytest.mark.parametrize(("status", "expected", "requeued"), [(0, 0, False), (75, 0, True), (1, 1, False)])
def test_slurm_requeues_after_preemption_alone(tmp_path, status, expected, requeued):
    for name, text in (
        ("srun", f"#!/bin/sh\nexit {status}\n"),
        ("scontrol", f'#!/bin/sh\necho "$@" >>{tmp_path}/called\necho n1\n'),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "41", "SLURM_SUBMIT_DIR": str(ROOT)}
    done = launch("slurm.sbatch", "r.yaml", **env)
    assert done.returncode == expected
    called = (tmp_path / "called").read_text() if (tmp_path / "called").exists() else ""
    assert (called == "requeue 41\n") == requeued


def test_docker(tmp_path):
    env = {"WANDB_API_KEY": "secret", "DATA": str(tmp_path / "images"), "RUNS": str(tmp_path / "runs")}
    (line,) = commands(launch("docker.sh", "--dry-run", "--stages", "search report", "r", "a.b=1", **env))
    assert line[:2] == ["docker", "run"]
    assert f"{tmp_path}/images:/opt/vitas_ds/data:ro" in line and f"{tmp_path}/runs:/opt/vitas_ds/runs" in line
    assert line[line.index("WANDB_API_KEY") - 1] == "--env" and "secret" not in " ".join(line)
    assert line[-5:] == ["launch/single_node.sh", "--stages", "search report", "r", "a.b=1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["single_node.sh"], "which recipe?"),
        (["single_node.sh", "--bogus", "r"], "--bogus: no such option"),
        (["single_node.sh", "--gpus", "0", "r"], "not a number above 0"),
        (["single_node.sh", "r", "s"], "a second recipe"),
        (["multi_node.sh", "r"], "--hostfile FILE is needed"),
        (["multi_node.sh", "--hostfile", "/no/such", "r"], "no such file"),
        (["slurm.sbatch", "r"], "not inside a Slurm job"),
        (["quickstart.sh", "--bogus"], "--bogus: no such option"),
    ],
)
def test_mistakes_are_one_line(words, message):
    done = launch(*words)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("script", ["quickstart.sh", "single_node.sh", "multi_node.sh", "slurm.sbatch", "docker.sh"])
def test_help(script):
    done = launch(script, "--help")
    assert done.returncode == 0 and f"launch/{script}" in done.stdout and "#" not in done.stdout


def test_python_that_is_too_old(tmp_path):
    """Told in a line, with what to install."""
    done = subprocess.run(
        ["bash", "-c", "source launch/lib.sh; find_python"], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHON": "no-such-python"},
    )  # fmt: skip
    assert done.returncode == 2 and "needs Python 3.11" in done.stderr


def test_venv_is_installed_once_for_each_set_of_versions(tmp_path):
    (tmp_path / "launch").mkdir()
    shutil.copy(ROOT / "launch" / "lib.sh", tmp_path / "launch")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$@" >>calls\n')
    python.chmod(0o755)

    def installs(text: str) -> int:
        (tmp_path / "requirements.txt").write_text(text)
        (tmp_path / "pyproject.toml").write_text("")
        (tmp_path / "calls").write_text("")
        subprocess.run(["bash", "-ec", "source launch/lib.sh; make_venv quickstart"], cwd=tmp_path, check=True)
        return (tmp_path / "calls").read_text().count("pip install")

    assert [installs("a"), installs("a"), installs("b"), installs("b")] == [1, 0, 1, 0]
