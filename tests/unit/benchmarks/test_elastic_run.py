"""tests/benchmarks/elastic from start to report, with the product's stages, and killed in between.

Reference: the record before the kill, and a plain count of the jobs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.benchmarks.elastic import document
from tests.benchmarks.elastic.jobs import ALONE, METHODS
from tests.helpers.digits import write_digits
from tests.helpers.launching import environment
from tests.helpers.paths import ROOT

JOBS = 2 * (2 + 3 * len(METHODS))  # seeds, searches, and a network for each budget and method
LIMIT = 900  # seconds


@pytest.mark.long
def test_quick_study_that_is_killed_in_between(tmp_path):
    digits, docs = write_digits(tmp_path / "digits"), tmp_path / "docs"
    docs.mkdir()
    (docs / "elastic.md").write_text(f"{document.BEGIN}\n{document.END}\n")
    words = [f"data.train={digits}/train", f"data.val={digits}/val", "--quick", "--out", str(tmp_path / "out")]
    record = tmp_path / "out" / "record.jsonl"
    assert "estimate: " in finish("start", words) and "done already" in finish("start", words)
    for count, number, status in ((4, signal.SIGTERM, 75), (8, signal.SIGKILL, -signal.SIGKILL)):
        with start("compare", words) as study:
            wait_for(lambda: lines(record) >= count, study)  # noqa: B023 - called at once
            study.send_signal(number)
            assert study.wait(60) == status
    before = record.read_bytes()
    out = finish("compare", words)
    assert record.read_bytes().startswith(before) and f"{JOBS}/{JOBS}" in out
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    assert len(rows) == len({row["job"] for row in rows}) == 1 + JOBS
    for row in rows:
        if row["kind"] == "network":
            assert 0 <= row["top1"] <= 1 and row["images"] == 80 and row["epochs"] > 0
            assert (row["before"] is None) == (METHODS[row["what"]].weights == "scratch")
            assert row["what"] != ALONE or row["own"] + row["shared"] <= row["limit"]
    assert finish("compare", words).count("\n") == 1  # nothing is left but the estimate
    assert "results.md" in finish("report", [*words, "--docs", str(docs)])
    assert "| iv | sibling |" in (docs / "elastic.md").read_text()


def start(step: str, words: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.benchmarks.elastic", step, *words]
    return subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True,
                            start_new_session=True)  # fmt: skip


def finish(step: str, words: list[str]) -> str:
    with start(step, words) as study:
        try:
            out, _ = study.communicate(timeout=LIMIT)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(study.pid, signal.SIGKILL)
    assert study.returncode == 0, out
    return out


def wait_for(condition, study: subprocess.Popen[str]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert study.poll() is None and time.monotonic() < end
        time.sleep(0.2)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
