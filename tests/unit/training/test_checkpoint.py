"""Checkpoints: whole or absent, fall back past the bad one, retention, consolidation."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
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

CASE = toy.Case("zero1", ema=0.5)


@pytest.fixture
def engine() -> Engine:
    return toy.start(CASE, comm.init("cpu", timeout=60))


@pytest.fixture
def saved(engine: Engine, tmp_path: Path) -> Path:
    """Checkpoints of steps 1, 2 and 3."""
    for step in range(3):
        toy.train_step(engine, CASE, step)
        checkpoint.save(engine, tmp_path, step + 1, {"images": 16 * (step + 1), "note": ["ü", None]})
    return tmp_path


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_folder_is_as_documented(saved: Path) -> None:
    assert names(saved) == ["step-00000001", "step-00000002", "step-00000003"]
    assert names(saved / "step-00000003") == ["manifest.json", "shard-00000.safetensors", "state.json"]
    shard = load_file(saved / "step-00000003" / "shard-00000.safetensors")
    assert {key.split("/")[0] for key in shard} == {"weight", "exp_avg", "exp_avg_sq", "ema", "constant"}
    assert checkpoint.verify(saved / "step-00000003") is None


def test_a_fresh_engine_gets_all_of_it(saved: Path) -> None:
    path = checkpoint.newest(saved)
    assert path == saved / "step-00000003"
    engine, again = (toy.start(CASE, comm.init("cpu")) for _ in range(2))
    toy.train(again, CASE, 0, 3)
    assert checkpoint.load(engine, path) == {"images": 48, "note": ["ü", None]}
    a, b = toy.everything(engine), toy.everything(again)
    assert a.keys() == b.keys() and not [name for name in a if not torch.equal(a[name], b[name])]
    for name, p in engine.model.named_parameters():
        assert torch.equal(p, a[f"weight/{name}"]), name


def flip(path: Path) -> None:
    """One bit in the middle: same size, loads without complaint."""
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


@pytest.mark.parametrize("harm", [flip, truncate, Path.unlink])
@pytest.mark.parametrize("name", ["shard-00000.safetensors", "state.json"])
def test_a_bad_file_is_named_and_the_next_older_one_taken(saved: Path, name: str, harm) -> None:
    bad = saved / "step-00000003" / name
    harm(bad)
    with pytest.warns(UserWarning, match=f"step-00000003/{name}"):
        assert checkpoint.newest(saved) == saved / "step-00000002"
    with pytest.raises(UserError, match=name):
        checkpoint.consolidate(bad.parent)


def test_no_byte_of_a_manifest_can_change_unseen(saved: Path) -> None:
    """It says where in the shards a parameter's elements lie: another digit there is another network."""
    path = saved / "step-00000003" / "manifest.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in (1, 16):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            assert checkpoint.verify(path.parent) is not None, (place, bit, whole[place : place + 20])
    manifest = json.loads(whole)
    manifest["parts"]["head.weight"][0][1] += 1
    path.write_text(json.dumps(manifest))
    with pytest.warns(UserWarning, match=r"step-00000003/manifest\.json was altered"):
        assert checkpoint.newest(saved) == saved / "step-00000002"


def test_a_manifest_of_the_format_before_is_read(saved: Path) -> None:
    path = saved / "step-00000003" / "manifest.json"
    manifest = json.loads(path.read_text()) | {"format": 1}
    del manifest["sha256"]
    path.write_text(json.dumps(manifest))
    assert checkpoint.newest(saved) == path.parent


@pytest.mark.parametrize(
    "content", [None, "", "{", "[]", "{}", '{"files": 3}', '{"files": {"a": 1}}', '{"format": 99, "files": {}}']
)
def test_a_bad_manifest(saved: Path, content: str | None) -> None:
    manifest = saved / "step-00000003" / "manifest.json"
    manifest.unlink()
    if content is not None:
        manifest.write_text(content)
    with pytest.warns(UserWarning, match="step-00000003/manifest.json"):
        assert checkpoint.newest(saved) == saved / "step-00000002"


def test_two_bad_ones(saved: Path) -> None:
    for step in (2, 3):
        flip(saved / f"step-0000000{step}" / "state.json")
    with pytest.warns(UserWarning) as seen:
        assert checkpoint.newest(saved) == saved / "step-00000001"
    assert len(seen) == 2
    shutil.rmtree(saved / "step-00000001")
    with pytest.warns(UserWarning):
        assert checkpoint.newest(saved) is None


def test_what_is_no_checkpoint_is_not_looked_at(saved: Path) -> None:
    (saved / "saving-step-00000009").mkdir()
    (saved / "old-step-00000008").mkdir()
    (saved / "step-best").mkdir()
    (saved / "step-00000007").write_text("a file")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.newest(saved) == saved / "step-00000003"
        assert checkpoint.newest(saved / "nowhere") is None


def test_a_step_reached_again_replaces_the_bad_one(saved: Path, engine: Engine) -> None:
    flip(saved / "step-00000003" / "state.json")
    (saved / "saving-step-00000003").mkdir()  # left by a job that was killed
    checkpoint.save(engine, saved, 3, {})
    assert checkpoint.newest(saved) == saved / "step-00000003"
    assert names(saved) == ["step-00000001", "step-00000002", "step-00000003"]


def test_retention(saved: Path, engine: Engine) -> None:
    checkpoint.save(engine, saved, 4, {}, keep=2)
    assert names(saved) == ["step-00000003", "step-00000004"]
    for step in (5, 6, 7):
        checkpoint.save(engine, saved, step, {}, keep=2, every=4)
    assert names(saved) == ["step-00000004", "step-00000006", "step-00000007"]


def test_the_best_one_stays(saved: Path, engine: Engine) -> None:
    for step, loss in ((4, 2.0), (5, 1.5), (6, 1.7), (7, float("nan")), (8, 1.6)):
        checkpoint.save(engine, saved, step, {}, keep=2, loss=loss, keep_best=True)
        assert checkpoint.best(saved) == saved / f"step-{4 if step == 4 else 5:08d}"
    assert names(saved) == ["step-00000005", "step-00000007", "step-00000008"]
    checkpoint.save(engine, saved, 9, {}, keep=2, loss=1.5, keep_best=True)  # as good, and newer
    checkpoint.save(engine, saved, 10, {}, keep=2, keep_best=True)
    checkpoint.save(engine, saved, 11, {}, keep=2, keep_best=True)
    assert names(saved) == ["step-00000009", "step-00000010", "step-00000011"]
    (saved / "step-00000009" / "state.json").write_text("{")
    assert checkpoint.best(saved) is None


@pytest.mark.slow
def test_a_write_that_fails_publishes_nothing(saved: Path, engine: Engine) -> None:
    """The disk fills up while the shard is written: a real limit on the size of files, in a process of its own."""
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
    assert checkpoint.found(saved)[0].name == "step-00000003"


def test_another_network_is_refused(saved: Path) -> None:
    path = saved / "step-00000003"
    engine = toy.start(CASE, comm.init("cpu"))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["shapes"]["head.weight"] = [7, 24]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"head\.weight is \(7, 24\) there and \(5, 24\) here"):
        checkpoint.load(engine, path)


def test_averages_begin_at_the_weights_of_a_checkpoint_without(tmp_path: Path) -> None:
    ranks = comm.init("cpu")
    plain = toy.start(toy.Case("zero1"), ranks)
    toy.train(plain, CASE, 0, 2)
    path = checkpoint.save(plain, tmp_path, 2, {})
    with pytest.raises(UserError, match="no averaged weights"):
        checkpoint.consolidate(path, ema=True)
    averaging = toy.start(CASE, ranks)
    checkpoint.load(averaging, path)
    assert toy.distance(toy.whole(averaging, "ema"), toy.whole(plain)) == 0


@pytest.mark.parametrize("ema", [False, True])
def test_consolidation_needs_no_engine_and_is_exact(saved: Path, engine: Engine, tmp_path: Path, ema: bool) -> None:
    out = tmp_path / "net" / "model.safetensors"
    checkpoint.write_consolidated(saved / "step-00000003", out, ema)
    net = toy.Toy(seed=1)
    net.load_state_dict(load_file(out))
    expected = toy.whole(engine, "ema" if ema else "weight")
    for name, p in net.named_parameters():
        assert p.dtype == torch.float32 and torch.equal(p, expected[name])
    assert names(out.parent) == ["model.safetensors"]
    x, _ = toy.batch_of(0, 4)
    other = toy.Toy()
    other.load_state_dict(expected | {"scale": torch.tensor([0.5])})
    assert torch.equal(net(x, toy.nets_of(0, 1)[0]), other(x, toy.nets_of(0, 1)[0]))


@pytest.mark.slow
def test_consolidation_in_one_and_a_half_times_the_weights(tmp_path: Path) -> None:
    """32 M parameters (128 MB), written in this process, read in another whose peak is measured."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(*(torch.nn.Linear(1000, 4000) for _ in range(8)))
    ranks = comm.init("cpu")
    engine = Engine(net, {"all": list(net.parameters())}, CASE.engine(), toy.Case().training(), ranks)
    path = checkpoint.save(engine, tmp_path, 1, {})
    code = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from vitas_ds.training import checkpoint\n"
        "def peak():\n"
        "    rows = dict(row.split(':') for row in open('/proc/self/status'))\n"
        "    return int(rows['VmHWM'].split()[0]) * 1024\n"
        "base = peak()\n"
        "checkpoint.write_consolidated(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "assert 'deepspeed' not in sys.modules\n"
        "print(peak() - base)\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", code, str(path), str(tmp_path / "model.safetensors")]
    peak = int(subprocess.run(words, env=env, capture_output=True, text=True, timeout=120, check=True).stdout)
    size = (tmp_path / "model.safetensors").stat().st_size
    assert size > 128e6
    print(f"peak {peak / size:.2f} times the weights")
    assert 0.9 * size < peak < 1.5 * size
