"""Attack the program with damaged files, odd input, full disks, signals and a second job.

    python -m tests.faults.attack --minutes 2
    python -m tests.faults.attack --minutes 30 --seed 1 --only stages starters

The seed chooses the cases of each class and their order; the machine decides how many fit into the time. The program
prints each problem when it finds it, and at the end the number of cases and problems per class. It exits with 1 if
there are problems: a traceback, a hang, an undocumented status, a line that is too long, a result that differs
silently, a stage that cannot resume or ends with other products, or a process that is left.

Run it as root, as in a container, to have a disk that can become full; otherwise the size of files is limited instead.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

from tests.faults.attack import command_lines, finished, folders
from tests.faults.attack.cases import Score, adopt_orphans, run
from tests.faults.attack.corruption import Corruption
from tests.faults.attack.preload import preload
from tests.faults.attack.stages import Stages
from tests.faults.attack.starters import Starters
from vitas_ds.commands import STAGES

KINDS = ("stages", "starters", "files", "lines", "tools", "starts", "folders")
SHARED_MEMORY = Path("/dev/shm")  # as a disk: flushing a file to it takes no time


def main() -> int:
    """Run the attack; return 1 if it found problems."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=2, help="after the runs that are attacked are ready")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS, metavar="CLASS", help=", ".join(KINDS))
    options = parser.parse_args()
    score, place = Score(), SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="attack-", dir=place) as name:
        try:
            attacks = prepare(Path(name), score, options.seed, options.only)
            end = time.monotonic() + 60 * options.minutes
            while time.monotonic() < end:
                for seconds, attack in attacks:
                    until = min(end, time.monotonic() + seconds)
                    while time.monotonic() < until:
                        attack()
                print(f"{score.cases.total():,} cases, {score.problems.total():,} problems", flush=True)
        finally:
            finished.unmount_disk(Path(name) / "disk")
    print(score.table())
    return int(bool(score.problems))


def prepare(folder: Path, score: Score, seed: int, only: tuple[str, ...]) -> list[tuple[float, Callable[[], None]]]:
    """Return the attacks: seconds of each round, and a function that runs one case."""
    preload(folder)
    adopt_orphans()
    has_disk = finished.mount_disk(folder / "disk")
    print(f"disk: {'tmpfs' if has_disk else 'a limit on the size of files (not root)'}", flush=True)
    other = finished.make(folder, seed=4) if "files" in only else None
    made = finished.make(folder)
    os.environ["HOME"] = str(folder / "disk")  # ~ and relative paths are inside, too
    os.chdir(folder / "disk")
    for number, stage in enumerate(STAGES):
        made.put(number)
        before = time.monotonic()
        run(made.argv(stage))
        made.seconds[stage] = time.monotonic() - before
    rng = {kind: random.Random(f"{seed} {kind}") for kind in KINDS}  # the cases of a class do not depend on the time
    attacks: dict[str, Callable[[], None]] = {
        "lines": lambda: command_lines.check(rng["lines"], score, made.args[0]),
        "tools": lambda: command_lines.run_tool(rng["tools"], score, made),
        "starts": lambda: command_lines.start_stage(rng["starts"], score, made),
        "folders": lambda: folders.attack(rng["folders"], score, made),
    }
    if "stages" in only:
        stages = Stages(made, has_disk, rng["stages"])
        attacks["stages"] = lambda: stages.attack(score)
    if "starters" in only:
        starters = Starters(made, rng["starters"])
        attacks["starters"] = lambda: starters.attack(score)
    if other is not None:
        corruption = Corruption(made, other, rng["files"])
        attacks["files"] = lambda: corruption.attack(score)
    weights = dict.fromkeys(KINDS, 2.0) | {"stages": 10.0, "files": 10.0, "lines": 5.0}
    return [(weights[kind], attacks[kind]) for kind in only]


if __name__ == "__main__":
    sys.exit(main())
