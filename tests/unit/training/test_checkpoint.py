"""Save and load checkpoints: complete or absent, and exact.

Reference: the saved state of the engine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import toy_supernet as toy
from tests.helpers.paths import ROOT
from vitas_ds.distributed import comm
from vitas_ds.engine.engine import Engine
from vitas_ds.errors import UserError
from vitas_ds.training import checkpoint, checkpoint_files
from vitas_ds.training.checkpoint_reader import consolidate

CASE = toy.Case("zero1", ema=0.5)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_folder_is_as_documented(saved: Path) -> None:
    assert names(saved) == ["step-00000001", "step-00000002", "step-00000003"]
    assert names(saved / "step-00000003") == ["manifest.json", "shard-00000.safetensors", "state.json"]
    shard = load_file(saved / "step-00000003" / "shard-00000.safetensors")
    assert {key.split("/")[0] for key in shard} == {"weight", "exp_avg", "exp_avg_sq", "ema", "constant"}
    assert checkpoint_files.verify(saved / "step-00000003") is None


def test_a_new_engine_loads_the_whole_state(saved: Path) -> None:
    path = checkpoint_files.newest(saved)
    assert path == saved / "step-00000003"
    engine, reference = (toy.start(CASE, comm.init("cpu")) for _ in range(2))
    toy.train(reference, CASE, 0, 3)
    assert checkpoint.load(engine, path) == {"images": 48, "note": ["ü", None]}
    a, b = toy.full_state(engine), toy.full_state(reference)
    assert a.keys() == b.keys() and not [name for name in a if not torch.equal(a[name], b[name])]
    for name, p in engine.model.named_parameters():
        assert torch.equal(p, a[f"weight/{name}"]), name


def test_a_step_reached_again_replaces_the_damaged_checkpoint(saved: Path, engine: Engine) -> None:
    (saved / "step-00000003" / "state.json").write_text("{")
    (saved / "saving-step-00000003").mkdir()  # left by a killed job
    checkpoint.save(engine, saved, 3, {})
    assert checkpoint_files.newest(saved) == saved / "step-00000003"
    assert names(saved) == ["step-00000001", "step-00000002", "step-00000003"]


@pytest.mark.slow
def test_a_failed_write_publishes_nothing(saved: Path, engine: Engine) -> None:
    """The disk fills up while the shard is written: a real limit on the file size, in a process of its own."""
    code = (
        "import resource, signal, sys\nfrom tests.helpers import toy_supernet as toy\n"
        "from pathlib import Path\n"
        "from vitas_ds.distributed import comm\nfrom vitas_ds.training import checkpoint\n"
        "engine = toy.start(toy.Case('zero1', ema=0.5), comm.init('cpu'))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "try: checkpoint.save(engine, Path(sys.argv[1]), 4, {})\n"
        "except OSError as error: print('refused:', error)\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(saved)], env=env, capture_output=True, text=True, timeout=120, check=True
    )
    assert "refused: checkpoint of step 4: rank 0 could not write" in done.stdout
    assert checkpoint_files.list_checkpoints(saved)[0].name == "step-00000003"


def test_a_checkpoint_of_another_network_is_refused(saved: Path) -> None:
    path = saved / "step-00000003"
    engine = toy.start(CASE, comm.init("cpu"))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["shapes"]["head.weight"] = [7, 24]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"of another network: .* head\.weight has shape \[7, 24\], expected \[5, 24\]"):
        checkpoint.load(engine, path)


def test_averages_start_at_the_weights_of_a_checkpoint_without_averages(tmp_path: Path) -> None:
    ranks = comm.init("cpu")
    plain = toy.start(toy.Case("zero1"), ranks)
    toy.train(plain, CASE, 0, 2)
    path = checkpoint.save(plain, tmp_path, 2, {})
    with pytest.raises(UserError, match="no averaged weights"):
        consolidate(path, ema=True)
    averaging = toy.start(CASE, ranks)
    checkpoint.load(averaging, path)
    assert toy.max_difference(toy.gather_tensors(averaging, "ema"), toy.gather_tensors(plain)) == 0
