"""Saves in the background: the state is that of the call of ``save``, one save at a time, errors, hangs.

References: a synchronous save, ``safetensors``, and real limits of the system.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers import toy_supernet as toy
from tests.helpers.paths import ROOT
from vitas_ds.distributed import comm
from vitas_ds.engine.engine import Engine
from vitas_ds.errors import SaveFailed
from vitas_ds.run.files import file_digest
from vitas_ds.training import checkpoint, checkpoint_files
from vitas_ds.training.checkpoint import Saver
from vitas_ds.training.checkpoint_reader import consolidate
from vitas_ds.training.checkpoint_shard import write_shard

CASE = toy.Case("zero1", ema=0.5)


def start() -> Engine:
    return toy.start(CASE, comm.init("cpu", timeout=60))


def test_a_shard_is_a_safetensors_file(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 1000, 1000), "empty": torch.empty(0, 4), "scalar": torch.tensor(2.5),
        "half": torch.randn(5).bfloat16(), "flags": torch.tensor([True, False]), "count": torch.tensor([1, 2**40]),
    }  # fmt: skip
    calls: list[int] = []
    size, digest = write_shard(tmp_path / "ours", tensors, lambda: calls.append(1))
    save_file(tensors, tmp_path / "theirs")
    ours, theirs = load_file(tmp_path / "ours"), load_file(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    assert all(ours[name].dtype == t.dtype and torch.equal(ours[name], t) for name, t in theirs.items())
    assert (size, digest) == ((tmp_path / "ours").stat().st_size, file_digest(tmp_path / "ours"))
    assert len(calls) >= 3  # 12 MB in chunks of 4


@pytest.mark.parametrize("deepspeed", [False, True])
def test_training_goes_on_during_a_save(tmp_path: Path, deepspeed: bool) -> None:
    """The thread waits for an event, while the loop trains and changes the weights."""
    engine = start()
    toy.train(engine, CASE, 0, 2)
    now = checkpoint.save(engine, tmp_path / "now", 2, {"note": 1}, 0.5, deepspeed)
    hold = threading.Event()
    saver = Saver(engine, tmp_path / "later", deepspeed=deepspeed)
    saver._staging = Held(saver._staging, hold)
    path = saver.save(2, {"note": 1}, 0.5)
    toy.train(engine, CASE, 2, 6)
    saver.poll()
    assert not path.exists()
    hold.set()
    saver.wait()
    names = sorted(file.name for file in now.iterdir())
    assert names == sorted(file.name for file in path.iterdir()) and len(names) == (4 if deepspeed else 3)
    for name in names:
        assert (path / name).read_bytes() == (now / name).read_bytes(), name
    assert sorted(p.name for p in (tmp_path / "later").iterdir()) == ["latest"] * deepspeed + [path.name]


class Held:
    """Staging whose copies are complete when an event is set, as those of a GPU are."""

    def __init__(self, staging: object, event: threading.Event) -> None:
        self.staging, self.event = staging, event

    def copy(self, engine: Engine) -> tuple[dict, object]:
        tensors, _ = self.staging.copy(engine)
        return tensors, self.event.wait

    def copy_files(self, files: dict, device: torch.device) -> tuple[dict, object]:
        copies, _ = self.staging.copy_files(files, device)
        return copies, self.event.wait


def newest(folder: Path) -> str:
    return checkpoint_files.list_checkpoints(folder)[0].name


def test_the_next_save_waits_and_reuses_the_memory(tmp_path: Path) -> None:
    engine, published = start(), []
    saver = Saver(engine, tmp_path, after=lambda step: published.append((step, newest(tmp_path))))
    expected, addresses = {}, set()
    for step in range(4):
        toy.train_step(engine, CASE, step)
        expected[saver.save(step + 1, {})] = toy.gather_tensors(engine)
        addresses.add(tuple(t.data_ptr() for t in saver._staging._memory.values()))
        assert len(published) >= step  # the one before has ended
    saver.wait()
    assert published == [(step, f"step-{step:08d}") for step in range(1, 5)] and len(addresses) == 1
    for path, weights in expected.items():
        assert checkpoint_files.verify(path) is None
        saved = consolidate(path)
        assert all(torch.equal(saved[name], weights[name]) for name in weights)


@pytest.mark.parametrize("deepspeed", [False, True])
def test_a_full_disk_stops_at_the_next_poll(tmp_path: Path, deepspeed: bool) -> None:
    """A real limit on the file size, in a process of its own."""
    code = (
        "import resource, signal, sys, time\nfrom pathlib import Path\nfrom tests.helpers import toy_supernet as toy\n"
        "from vitas_ds.distributed import comm\nfrom vitas_ds.training import checkpoint\n"
        "engine = toy.start(toy.Case('zero1', ema=0.5), comm.init('cpu'))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        f"saver = checkpoint.Saver(engine, Path(sys.argv[1]), deepspeed={deepspeed})\n"
        "saver.save(4, {})\n"
        "saver._write.join(60)\n"
        "try: saver.poll()\n"
        "except OSError as error: print('refused:', type(error).__name__, error)\n"
        "saver.wait()\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True)
    expected = (
        r"refused: SaveFailed checkpoint of step 4: rank 0 could not write: /\S+: the file is too large \(.* free\)"
    )
    assert re.search(expected, done.stdout)
    assert not checkpoint_files.list_checkpoints(tmp_path)


def test_a_save_that_hangs_ends(tmp_path: Path) -> None:
    engine, alive = start(), []
    saver = Saver(engine, tmp_path, limit=0.5, alive=lambda: alive.append(1))
    saver._staging = Held(saver._staging, threading.Event())
    saver.save(1, {})
    with pytest.raises(SaveFailed, match=r"checkpoint of step 1: rank 0 could not write: no progress for run.timeout"):
        saver.wait()
    assert alive and not checkpoint_files.list_checkpoints(tmp_path)


def test_a_marker_of_a_killed_job_does_not_count(tmp_path: Path) -> None:
    """Rank 0 of two: the marker of rank 1 has another token, so rank 0 does not publish."""
    left = tmp_path / "saving-step-00000009"
    left.mkdir()
    saver = Saver(start(), tmp_path)
    path = saver.save(1, {})
    saver.wait()
    assert not left.exists()
    plan = checkpoint.Plan(
        2, 0, 2, "new", tmp_path / "step-00000002", bool, lambda folder, progress: {}, {}, {}, {"shapes": {}}, bool
    )  # fmt: skip
    plan.temporary.mkdir()
    (plan.temporary / "written-00001.json").write_text('{"token": "old", "parts": {}, "files": {}}')
    write = checkpoint.Write(plan, 60)
    write.closing.set()
    write.join(30)
    status = write.status()
    assert status.written and status.done and "does not see written-00001.json" in str(status.error)
    assert checkpoint_files.list_checkpoints(tmp_path) == [path]
