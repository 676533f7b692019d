"""Attack the program with corrupted files, odd input, full disks and kills.

    python -m tests.faults.attack --minutes 2

The cases are random with a fixed seed. The program prints the number of cases and problems per class, and exits with 1
if there are any problems: a traceback, a hang, an undocumented status, a message that is too long, a result that
differs silently, a stage that cannot resume, or a process that is left.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

from tests.faults.attack import command_lines, folders
from tests.faults.attack.cases import Score, run
from tests.faults.attack.corruption import Corruption
from tests.faults.attack.stages import Stages
from tests.helpers.digits import write_digits
from tests.helpers.paths import FIXTURES
from vitas_ds.commands import STAGES

SETTINGS = [
    "supernet.epochs=1",
    "retrain.epochs=1",
    "tracking.wandb=disabled",
    "run.device=cpu",
    "search.generations=1",
]


def make_run(folder: Path) -> tuple[Path, list[str], Path]:
    """Make a finished run. Return its folder, the arguments of its stages, and an image."""
    data = write_digits(folder / "digits", 20, 4)
    args = [str(FIXTURES / "tiny.yaml"), *SETTINGS, f"data.train={data}/train", f"data.val={data}/val"]
    for stage in STAGES:
        done = run([stage, *args, f"run.dir={folder}/runs"], limit=200)
        assert done.status == 0, f"{stage}: {done.err}"
    return folder / "runs" / "tiny", args, next((data / "val").rglob("*.jpg"))


def main() -> int:
    """Run the attack; return 1 if it found problems."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one class: files, lines, folders or stages")
    options = parser.parse_args()
    rng, score = random.Random(options.seed), Score()
    with tempfile.TemporaryDirectory() as name:
        attacks = prepare(Path(name), score, rng)
        end = time.monotonic() + 60 * options.minutes
        while time.monotonic() < end:
            for kind, weight, attack in attacks:
                for _ in range(weight if options.only in (None, kind) else 0):
                    attack()
    for kind, count in sorted(score.cases.items()):
        print(f"{kind:<16} {count:>6,} cases")
    for problem, count in sorted(score.problems.items()):
        print(f"{problem:<16} {count:>6,} problems")
    print(*score.failed, sep="\n")
    return int(bool(score.problems))


def prepare(folder: Path, score: Score, rng: random.Random):
    """Return the attacks: name, cases per round, and a function that runs one case."""
    import torch

    import vitas_ds.stages.export
    import vitas_ds.stages.report
    import vitas_ds.stages.search
    import vitas_ds.stages.train_supernet
    import vitas_ds.stages.validate
    import vitas_ds.tools.consolidate
    import vitas_ds.tools.predict  # noqa: F401

    torch.set_num_threads(1)  # a forked process must not wait for the threads of its parent
    finished, args, image = make_run(folder)
    corruption = Corruption(finished, folder / "copy", image)
    stages = Stages(finished, folder / "stages", args)
    images = [image.read_bytes()]
    return (
        ("lines", 30, lambda: command_lines.attack(rng, score, args[0])),
        ("files", 20, lambda: corruption.attack(rng, score)),
        ("folders", 10, lambda: folders.attack(rng, score, images, folder / "odd")),
        ("stages", 1, lambda: stages.attack(rng, score)),
    )


if __name__ == "__main__":
    sys.exit(main())
