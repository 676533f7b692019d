"""doctor's verdicts, on the real machine and on rows that lack something."""

import argparse
import sys
from importlib import metadata
from pathlib import Path

import pytest

from vitas_ds.tools import doctor
from vitas_ds.tools.doctor import Row


@pytest.mark.slow
def test_this_machine_runs_every_stage(capsys):
    assert doctor.run(argparse.Namespace()) == 0
    out = capsys.readouterr().out
    assert out.count("can run") == 6 and "cannot run" not in out
    assert metadata.version("deepspeed") in out and "decodes JPEG" in out


def test_a_lacking_part_stops_the_stages_that_need_it(monkeypatch, capsys):
    rows = [Row("packages", "ok", ""), Row("dali", "lacking", "no module", "pip"), Row("gpu", "note", "none")]
    monkeypatch.setattr(doctor, "doctor", lambda folder: rows)
    assert doctor.run(argparse.Namespace()) == 1
    lines = {line.split("  ")[0].strip(): line for line in capsys.readouterr().out.splitlines() if line}
    for stage in ("train-supernet", "search", "retrain", "evaluate"):
        assert lines[stage].endswith("cannot run: dali")
    assert lines["export"].endswith("can run") and lines["report"].endswith("can run")


def test_an_attempt_survives_what_it_tries():
    assert doctor.attempt("print('a'); print('b')") == (True, "b")
    assert doctor.attempt("import no_such_module") == (False, "ModuleNotFoundError: No module named 'no_such_module'")
    assert doctor.attempt("import os; os.abort()")[0] is False
    assert doctor.attempt("import time; time.sleep(9)", seconds=0.5) == (False, "no answer within 0.5 s")


def test_packages_out_of_bounds(monkeypatch):
    known = {"torch": "1.0"}

    def version(name):
        if name in known:
            return known[name]
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["torch>=2", "numpy>=2", 'pytest>=8; extra == "dev"'])
    monkeypatch.setattr(doctor.metadata, "version", version)
    row = doctor.packages()
    assert row.state == "lacking"
    assert "torch 1.0 is not >=2" in row.found and "numpy is not installed" in row.found and "pytest" not in row.found


def test_launcher_is_that_of_this_python(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert doctor.launcher().state == "lacking"
    Path(tmp_path / "deepspeed").touch()
    assert doctor.launcher().state == "ok"
