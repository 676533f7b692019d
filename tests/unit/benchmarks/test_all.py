"""All benchmarks in one command: names, failures, limits, and the common format of the rows.

References: real benchmarks, one of which fails on purpose.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.benchmarks import __main__ as benchmarks
from tests.benchmarks.timing import where
from tests.helpers.paths import ROOT

FOLDER = ROOT / "tests" / "benchmarks"
STARTED_BY_OTHERS = {"scale_model", "scale_ranks", "scale_simulation"}
KEYS = {"device", "driver", "cuda", "cpu_capability", "threads", "load", "git", "versions"}


def test_every_benchmark_is_included():
    files = {path.stem for path in [*FOLDER.glob("bench_*.py"), *FOLDER.glob("scale*.py")]} - STARTED_BY_OTHERS
    assert files <= set(benchmarks.FILES.values())
    assert all((FOLDER / f"{file}.py").is_file() for file in benchmarks.FILES.values())
    assert benchmarks.QUICK.keys() == benchmarks.QUICK_CUDA.keys() == benchmarks.FILES.keys()


class Parsed(Exception):
    pass


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", list(benchmarks.FILES))
def test_the_options_of_quick_exist(tmp_path, monkeypatch, name, device):
    """The real parser of each benchmark reads them; the benchmark stops afterwards."""
    for method in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, method, parse_and_stop(getattr(argparse.ArgumentParser, method)))
    command = benchmarks.command_of(name, argparse.Namespace(quick=True, device=device, out=tmp_path))
    monkeypatch.setattr(sys, "argv", command[2:])
    with pytest.raises(Parsed):
        importlib.import_module(command[2]).main()


def parse_and_stop(parse):
    def stop(*args, **options):
        parse(*args, **options)
        raise Parsed

    return stop


def test_where_describes_machine_and_versions():
    found = where(torch.device("cpu"))
    assert found.keys() == KEYS
    assert {"torch", "deepspeed", "python"} <= found["versions"].keys()
    assert found["versions"]["torch"] == torch.__version__.split("+")[0]


@pytest.mark.long
def test_the_quick_command_runs_all_benchmarks(tmp_path):
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {row["benchmark"] for row in rows} == set(benchmarks.FILES)


@pytest.mark.slow
def test_a_failed_benchmark_is_named_and_the_others_run(tmp_path: Path, monkeypatch, capfd):
    monkeypatch.setitem(benchmarks.QUICK, "engine", ["zero7"])
    monkeypatch.setattr(sys, "argv", ["x", "--quick", "--only", "engine", "checkpoint", "--out", str(tmp_path)])
    monkeypatch.chdir(ROOT)
    assert benchmarks.main() == 1
    assert "failed: engine (exit status 2)" in capfd.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {row["benchmark"] for row in rows} == {"checkpoint"}
    assert all(row.keys() == {"benchmark", "table", "row", "where"} and row["where"].keys() == KEYS for row in rows)


def test_a_benchmark_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(ROOT)
    args = argparse.Namespace(quick=True, device="cpu", out=tmp_path, limit=0.3)
    assert benchmarks.run("launches", args) == "longer than 0.3 s"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPU")
def test_cuda_without_a_gpu_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "--device", "cuda"])
    assert benchmarks.main() == 2
    assert capsys.readouterr().err == (
        "benchmarks: --device cuda: no GPU is available; leave it out to run on the CPU\n"
    )


def test_a_missing_reference_is_one_line(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["x", "--quick", "--out", str(tmp_path / "out")])
    assert benchmarks.main() == 2 and not (tmp_path / "out").exists()
    assert capsys.readouterr().err == "benchmarks: timm, the reference, is not installed; pip install -e '.[dev]'\n"
