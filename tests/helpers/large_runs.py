"""Runs with many candidates or metric records, and what their report costs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from vitas_ds.run.run_dir import RunDir
from vitas_ds.search.scoring.ledger_digest import add_digest

LAYERS, BLOCK = 16, 2000  # layers of a network; different lines of a ledger
MEASURE = """
import sys
from vitas_ds.__main__ import main
assert main(["report", sys.argv[1]]) == 0
assert "torch" not in sys.modules
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))  # ru_maxrss counts the parent
print(int(peak.split()[1]) * 1024)
"""


def repeat_candidates(ledger: Path, count: int) -> None:
    """Replace a ledger by one of ``count`` networks of 16 layers, in generations of 50."""
    lines = [line.partition(', "sha256"')[0] + "}" for line in ledger.read_text().splitlines()]
    block = []
    for i in range(BLOCK):
        head, _, rest = lines[i % len(lines)].partition('"layers": [')
        layers, _, tail = rest.partition("]}")
        layer = layers.partition("}")[0] + "}"
        tail = tail.replace('"score"', '"activations": 1000, "score"')  # all costs, as a search writes them
        line = f'{head}"layers": [{", ".join([layer] * LAYERS)}]}}{tail}'
        block.append(add_digest(line.replace('"generation": 1', f'"generation": {1 + i // 50}')) + "\n")
    with ledger.open("w") as file:
        for start in range(0, count, BLOCK):
            file.writelines(block[: count - start])


def repeat_metrics(run: RunDir, count: int) -> None:
    """Repeat the metric records of a run until there are at least ``count``."""
    rows = run.metrics.read_text()
    with run.metrics.open("a") as file:
        file.writelines([rows] * (count // rows.count("\n") + 1))


def report_cost(run: RunDir) -> tuple[float, int, int]:
    """Run the report. Return its seconds, and the bytes of its peak memory and of the page."""
    start = time.perf_counter()
    command = [sys.executable, "-c", MEASURE, str(run.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    return time.perf_counter() - start, int(done.stdout.splitlines()[-1]), run.report.stat().st_size
