"""No reader waits for the writer of a pipe: each says that it is not a file.

A reader that waits cannot be interrupted, so each runs in a process of its own, with a time limit.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vitas_ds.data import image_index, shards
from vitas_ds.errors import UserError
from vitas_ds.export.weights import load_safetensors, load_torch
from vitas_ds.run.files import write_json
from vitas_ds.run.run_dir import RunDir
from vitas_ds.search.scoring.ledger import open_ledger
from vitas_ds.search.trials.store import Store
from vitas_ds.training.checkpoint_pickle import read_pickle
from vitas_ds.training.checkpoint_reader import Reader, read_consolidated

SECONDS = 20


def read_tensors_of_checkpoint(path: Path) -> object:
    path.rename(path.with_name("shard-00000.safetensors"))
    write_json(path.with_name("manifest.json"), {"shapes": {}, "constants": ["x"], "kinds": [], "parts": {}})
    return Reader(path.parent).buffer("x")


def read_state_of_finalist(path: Path) -> object:
    store = Store(RunDir(path.parent))
    store._state("a").parent.mkdir(parents=True)
    path.rename(store._state("a"))
    return store._metadata("a")


READERS: dict[str, Callable[[Path], object]] = {
    "weights of a supernet": read_consolidated, "tensors of a checkpoint": read_tensors_of_checkpoint,
    "weights in safetensors": load_safetensors, "weights of torch": load_torch, "file of DeepSpeed": read_pickle,
    "state of a finalist": read_state_of_finalist, "ledger": lambda path: open_ledger(path, {}),
    "shard of images": lambda path: list(shards.read_shard(str(path.parent), path.name)),
    "index of images": image_index._map,
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_is_not_read(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "x.tar")
    child = os.fork()
    if child == 0:
        try:
            READERS[name](tmp_path / "x.tar")
            os._exit(1)
        except UserError as error:
            os._exit(0 if "a device or pipe, not a file" in str(error) else 2)
        except BaseException:
            os._exit(3)
    give_up = time.monotonic() + SECONDS
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < give_up:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("waits for a writer")
    assert os.waitstatus_to_exitcode(ended[1]) == 0
