"""Program: save in the background on two ranks, again and again, and kill them at random moments of a save.

    python -m tests.faults.save_kills FOLDER FIRST_SEED LAST_SEED

The ranks are forks of one process that has imported everything and started no thread, so a start takes a fraction of a
second. Prints for each seed what the kill left. Exits with 1 if a checkpoint is not whole, or if one was lost.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from tests.helpers import toy_supernet as toy
from tests.helpers.launching import free_port
from vitas_ds.distributed import comm
from vitas_ds.training import checkpoint, checkpoint_files
from vitas_ds.training.checkpoint_reader import Reader, consolidate

RANKS, ELEMENTS, SAVES = 2, 200_000, 6
STAGES = ("zero0", "zero1", "zero2", "zero3")


class Wide(toy.Toy):
    """The toy supernet with a large parameter, so a save takes a few milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = torch.nn.Parameter(torch.zeros(ELEMENTS))

    def units(self) -> dict[str, list[torch.nn.Parameter]]:
        return super().units() | {"wide": [self.wide]}


def main(folder: str, first: str, last: str) -> int:
    import deepspeed  # noqa: F401  before the fork, which then need not import it

    good = True
    for seed in range(int(first), int(last)):
        directory = Path(folder, str(seed))
        pids = start_ranks(directory, STAGES[seed % len(STAGES)], seed // len(STAGES) % 2 == 1)
        published = kill_during_a_save(directory, pids, random.Random(seed))
        checker = os.fork()  # reading starts threads
        if checker == 0:
            os._exit(0 if report(seed, directory, published) else 1)
        good &= os.waitpid(checker, 0)[1] == 0
    return 0 if good else 1


def start_ranks(directory: Path, zero: str, deepspeed: bool) -> list[int]:
    """Fork the ranks of a job that saves ``SAVES`` checkpoints, in DeepSpeed's format or in ours."""
    directory.mkdir(parents=True)
    port, pids = free_port(), []
    for rank in range(RANKS):
        pid = os.fork()
        if pid == 0:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(RANKS), "LOCAL_RANK": str(rank),
                           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
            try:
                save_repeatedly(directory, zero, deepspeed)
            finally:  # the surviving rank loses its connection
                os._exit(1)
        pids.append(pid)
    return pids


def save_repeatedly(directory: Path, zero: str, deepspeed: bool) -> None:
    """Run one rank: in checkpoint k, every element of the large parameter is k."""
    torch.set_num_threads(1)
    case, model = toy.Case(zero), Wide()
    ranks = comm.init("cpu", timeout=60)
    engine = toy.Engine(model, model.units(), case.engine(), case.training(), ranks)

    def prune(step: int) -> None:
        checkpoint_files.prune(directory, keep=2, step=step)

    with checkpoint.Saver(engine, directory, after=prune, deepspeed=deepspeed) as saver:
        for step in range(1, SAVES + 1):
            with torch.no_grad():
                engine._set_weights([torch.full_like(tensor, step) for tensor in engine.owned])
            saver.save(step, {"step": step})
            for tensor in engine.owned:  # training continues
                tensor.detach().fill_(-1)
            saver.poll()
        saver.wait()
    os._exit(0)


def kill_during_a_save(directory: Path, pids: list[int], rng: random.Random) -> int:
    """Kill one rank or both after a random time in a random save. Return the step published before the kill."""
    step, delay, both = rng.randint(1, SAVES), rng.random() ** 2 * 0.06, rng.random() < 0.5
    limit = time.monotonic() + 120
    while not (directory / f"saving-step-{step:08d}").exists() and newest_step(directory) < step:
        assert time.monotonic() < limit, f"no save of step {step}"
        time.sleep(0.0001)
    time.sleep(delay)
    before = newest_step(directory)
    victims = pids if both else [rng.choice(pids)]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    time.sleep(0 if both else 0.3)  # the other rank's thread may still write and publish
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return before


def newest_step(directory: Path) -> int:
    return max((checkpoint_files.step_of(path) for path in checkpoint_files.list_checkpoints(directory)), default=0)


def report(seed: int, directory: Path, published: int) -> bool:
    """Check that every checkpoint is intact and holds one step's values, and that none was lost."""
    left = sorted(path.name for path in directory.iterdir())
    problems = []
    for path in checkpoint_files.list_checkpoints(directory):
        problem, step = checkpoint_files.verify(path), checkpoint_files.step_of(path)
        if problem is None and not bool((consolidate(path)["wide"] == step).all()):
            problem = f"{path.name} has values of another step"
        if problem is None and Reader(path).manifest["world_size"] != RANKS:
            problem = f"{path.name} has another number of ranks"
        problems += [problem] if problem else []
    if newest_step(directory) < published:
        problems.append(f"step {published} was lost")
    problems += _problems_of_latest(directory)
    print(f"seed {seed}: {' '.join(left)}: {'; '.join(problems) or 'good'}", flush=True)
    return not problems


def _problems_of_latest(directory: Path) -> list[str]:
    """Check that ``latest``, if there is one, names a checkpoint in DeepSpeed's format."""
    latest = directory / checkpoint_files.LATEST
    if latest.exists() and checkpoint_files.verify(directory / latest.read_text()) is not None:
        return [f"latest names {latest.read_text()}, which is not intact"]
    return []


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
