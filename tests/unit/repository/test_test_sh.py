"""``launch/test.sh``, the linters of all shell scripts, and the creation of ``.venv``.

References: bash, shellcheck, and the hooks of pre-commit.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.helpers.launch_scripts import commands, launch
from tests.helpers.paths import ROOT

SCRIPTS = [*sorted((ROOT / "launch").glob("*.sh")), ROOT / "launch" / "slurm.sbatch", ROOT / ".ci" / "run"]
LINTERS = ["ruff", "ruff", "mypy", "shellcheck", "python"]


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


def test_help_of_test_sh_names_every_part():
    done = launch("test.sh", "--help")
    assert "launch/test.sh [lint|unit|distributed|long] [PYTEST_ARGUMENT ...]" in done.stdout
    assert all(f"\n  {part}" in done.stdout for part in ("lint", "unit", "distributed", "long", "(no word)"))


@pytest.mark.parametrize(
    ("args", "linters", "folders", "selected"),
    [
        ([], LINTERS, ["tests", "--ignore", "tests/benchmarks"], "not long"),
        (["lint"], LINTERS, None, None),
        (["unit"], LINTERS, ["tests/unit"], "not slow and not long"),
        (["distributed"], [], ["tests/distributed", "tests/faults"], "not long"),
        (["long"], [], ["tests/unit", "tests/faults"], "long"),
    ],
)
def test_each_part_of_test_sh(args, linters, folders, selected):
    """Each part runs its linters and folders, and passes other arguments to pytest."""
    lines = commands(launch("test.sh", *args, "-k", "two words", DRY_RUN="1"))
    assert [line[0] for line in lines[: len(linters)]] == linters
    if folders is None:
        assert len(lines) == len(linters)
        return
    (line,) = lines[len(linters) :]
    start = ["python", "-m", "pytest", *folders]
    assert line[: len(start)] == start and line[-2:] == ["-k", "two words"]
    assert line[line.index("-m", 3) + 1] == selected


def test_test_sh_passes_pytest_arguments_without_a_part():
    (*_, line) = commands(launch("test.sh", "-k", "unit", DRY_RUN="1"))
    assert line[:4] == ["python", "-m", "pytest", "tests"] and line[-2:] == ["-k", "unit"]


def test_test_sh_and_the_hooks_run_the_same_linters():
    """Reference: the entries of .pre-commit-config.yaml, as PyYAML reads them."""
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = [hook["entry"].removeprefix(".venv/bin/").replace(" --force-exclude", "") for hook in repo["hooks"]]
    lines = [" ".join(line) for line in commands(launch("test.sh", "lint", DRY_RUN="1"))]
    assert all(line.startswith(hook) for line, hook in zip(lines, hooks, strict=True))
    (shellcheck,) = (line.split() for line in lines if line.startswith("shellcheck"))
    assert {str(ROOT / name) for name in shellcheck[2:]} == {str(path) for path in SCRIPTS}


def test_an_old_python_is_refused():
    """The message names the packages to install."""
    done = subprocess.run(
        ["bash", "-c", "source launch/lib.sh; find_python"], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHON": "no-such-python"},
    )  # fmt: skip
    assert done.returncode == 2 and "needs Python 3.11" in done.stderr


def test_venv_is_updated_only_when_the_versions_change(tmp_path):
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
        calls = (tmp_path / "calls").read_text()
        assert calls.count("--no-compile") == calls.count("-m compileall")  # without, every start compiles imports
        return calls.count("pip install")

    assert [installs("a"), installs("a"), installs("b"), installs("b")] == [1, 0, 1, 0]
