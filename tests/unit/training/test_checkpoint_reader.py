"""Consolidation of checkpoints without an engine.

References: the weights of the engine, and the peak memory reported by the system.
"""

from __future__ import annotations

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
from vitas_ds.training import checkpoint
from vitas_ds.training.checkpoint_reader import consolidate, read_consolidated, write_consolidated


@pytest.mark.parametrize("ema", [False, True])
def test_consolidation_is_exact(saved: Path, engine: Engine, tmp_path: Path, ema: bool) -> None:
    out = tmp_path / "net" / "model.safetensors"
    write_consolidated(saved / "step-00000003", out, ema)
    net = toy.Toy(seed=1)
    net.load_state_dict(load_file(out))
    expected = toy.gather_tensors(engine, "ema" if ema else "weight")
    for name, p in net.named_parameters():
        assert p.dtype == torch.float32 and torch.equal(p, expected[name])
    assert [path.name for path in out.parent.iterdir()] == ["model.safetensors"]
    x, _ = toy.batch_of(0, 4)
    other = toy.Toy()
    other.load_state_dict(expected | {"scale": torch.tensor([0.5])})
    assert torch.equal(net(x, toy.subnets_of(0, 1)[0]), other(x, toy.subnets_of(0, 1)[0]))


@pytest.mark.slow
def test_peak_memory_is_below_one_and_a_half_times_the_weights(tmp_path: Path) -> None:
    """32 M parameters (128 MB), saved by this process, and consolidated by another one whose peak is measured."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(*(torch.nn.Linear(1000, 4000) for _ in range(8)))
    case, ranks = toy.Case("zero1", ema=0.5), comm.init("cpu")
    engine = Engine(net, {"all": list(net.parameters())}, case.engine(), toy.Case().training(), ranks)
    path = checkpoint.save(engine, tmp_path, 1, {})
    code = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from vitas_ds.training.checkpoint_reader import write_consolidated\n"
        "def peak():\n"
        "    rows = dict(row.split(':') for row in open('/proc/self/status'))\n"
        "    return int(rows['VmHWM'].split()[0]) * 1024\n"
        "base = peak()\n"
        "write_consolidated(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "assert 'deepspeed' not in sys.modules\n"
        "print(peak() - base)\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "model.safetensors")]
    peak = int(subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True).stdout)
    size = (tmp_path / "model.safetensors").stat().st_size
    assert size > 128e6
    print(f"peak memory: {peak / size:.2f} times the weights")
    assert 0.9 * size < peak < 1.5 * size


def test_a_changed_byte_in_a_consolidated_file_is_found(saved: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    write_consolidated(saved / "step-00000003", file)
    expected = consolidate(saved / "step-00000003")
    assert all(torch.equal(value, expected[name]) for name, value in read_consolidated(file).items())
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"^{file} was changed: the SHA-256 of its tensors does not match; restore it"):
        read_consolidated(file)
