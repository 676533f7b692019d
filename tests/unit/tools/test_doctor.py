"""``vitas doctor`` on this machine, and with missing parts.

References: the packages of this environment, and a Python without any.
"""

import argparse
import os
import re
import subprocess
import sys
import time
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from vitas_ds.distributed.supervisor import process_start
from vitas_ds.tools import doctor
from vitas_ds.tools.doctor import Row

CODE = "import sys; sys.path.insert(0, sys.argv.pop(1)); from vitas_ds.__main__ import main; sys.exit(main())"


@pytest.mark.slow
def test_this_machine_can_run_every_stage(capsys):
    assert doctor.run(argparse.Namespace()) == 0
    out = capsys.readouterr().out
    assert out.count("can run") == 6 and "cannot run" not in out
    assert metadata.version("deepspeed") in out and "decodes JPEG" in out


def test_missing_part_blocks_the_stages_that_need_it(monkeypatch, capsys):
    rows = [Row("packages", "ok", ""), Row("dali", "missing", "no module", "pip"), Row("gpu", "note", "none")]
    monkeypatch.setattr(doctor, "doctor", lambda folder: rows)
    assert doctor.run(argparse.Namespace()) == 1
    lines = {line.split("  ")[0].strip(): line for line in capsys.readouterr().out.splitlines() if line}
    for stage in ("train-supernet", "search", "retrain", "evaluate"):
        assert lines[stage].endswith("cannot run: dali")
    assert lines["export"].endswith("can run") and lines["report"].endswith("can run")


def test_probe_survives_a_crash():
    assert doctor.probe("print('a'); print('b')") == (True, "b")
    assert doctor.probe("import no_such_module") == (False, "ModuleNotFoundError: No module named 'no_such_module'")
    assert doctor.probe("raise ValueError('a\\nb ' + 'c' * 999)") == (False, "ValueError: a")
    assert doctor.probe("import os; os.abort()")[0] is False
    assert doctor.probe("import time; time.sleep(9)", seconds=0.5) == (False, "no answer within 0.5 s")


def test_a_probe_ends_with_its_parent(tmp_path):
    file = tmp_path / "pid"
    check = f"import os, time; open({str(file)!r}, 'w').write(f'{{os.getpid()}}\\n'); time.sleep(60)"
    parent = subprocess.Popen(
        [sys.executable, "-c", f"from vitas_ds.tools import doctor; doctor.probe({check!r})"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert wait_until(lambda: file.exists() and file.read_text().endswith("\n"))
        pid = int(file.read_text())
        assert process_start(pid)
    finally:
        parent.terminate()
        parent.wait(30)
    assert wait_until(lambda: not process_start(pid), 10)


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (done := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return done


def test_package_versions_out_of_bounds(monkeypatch):
    known = {"torch": "1.0"}

    def version(name):
        if name in known:
            return known[name]
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["torch>=2", "numpy>=2", 'pytest>=8; extra == "dev"'])
    monkeypatch.setattr(doctor.metadata, "version", version)
    row = doctor.packages()
    assert row.state == "missing"
    assert "torch 1.0 is not >=2" in row.found and "numpy is not installed" in row.found and "pytest" not in row.found


@pytest.mark.slow
def test_python_without_packages():
    """With the standard library alone, no command prints a traceback: doctor returns 1, other commands return 2."""

    def run(*words):
        command = [sys.executable, "-I", "-S", "-c", CODE, str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    done = run("doctor")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "packages" in done.stdout and "MISSING" in done.stdout and "cannot run" in done.stdout
    done = run("config", "quickstart")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "is not installed; python -m vitas_ds doctor lists what is missing" in done.stderr


def test_launcher_belongs_to_this_python(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert doctor.launcher().state == "missing"
    Path(tmp_path / "deepspeed").touch()
    assert doctor.launcher().state == "ok"


def test_optional_packages_block_no_stage(monkeypatch):
    known = {"onnx": "1.23.4", "onnxruntime": "0.1", "timm": "1.0.20"}

    def version(name):
        if name in known:
            return known[name]
        raise metadata.PackageNotFoundError(name)

    lines = ["onnx<1.24,>=1.23; extra == 'export'", "onnxruntime>=1.31; extra == 'export'", "torch>=2"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: lines)
    monkeypatch.setattr(doctor.metadata, "version", version)
    rows = {row.part: row for row in doctor.optional()}
    assert {row.state for row in rows.values()} == {"ok", "note"}
    assert rows["onnx"].found.startswith("1.23.4") and rows["timm"].state == "ok" and not rows["timm"].fix
    assert "0.1 is not >=1.31" in rows["onnxruntime"].found and "[export]" in rows["onnxruntime"].fix
    assert "not installed" in rows["onnxscript"].found and "export.onnx" in rows["onnxscript"].found
    assert rows["wandb-workspaces"].fix == "pip install wandb-workspaces"
    assert all(doctor.missing_parts(stage, list(rows.values())) == [] for stage in doctor.STAGES)


def test_extra_packages_equal_pyproject():
    """The fix ``.[EXTRA]`` is printed for exactly the packages of that extra."""
    text = (Path(doctor.__file__).parents[2] / "pyproject.toml").read_text()
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    expected = {re.split("[<>=]", line)[0]: name for name in ("export", "hub", "tensorboard") for line in extras[name]}
    assert expected == doctor.EXTRA and set(doctor.EXTRA) <= set(doctor.OPTIONAL)
