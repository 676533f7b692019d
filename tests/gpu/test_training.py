"""Training on a GPU: every ZeRO stage, unused weights, resume, saves in the background, and whole stages.

References: the same training with torch's AdamW on the same device, a second run, a save that waits, and torch's
profiler. The same tests run on the CPU.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.helpers import launching
from tests.helpers import toy_supernet as toy
from tests.helpers.devices import DEVICES
from vitas_ds.distributed import comm
from vitas_ds.engine.engine import Engine
from vitas_ds.engine.peak import device_peak
from vitas_ds.models.flat import FlatModule
from vitas_ds.training import checkpoint
from vitas_ds.training.checkpoint import Saver

ZERO = ["zero0", "zero1", "zero2", "zero3"]
# relative to weights of about 0.3 after eight steps with lr 0.01; bf16 changes gradients by 0.4 %, and AdamW divides
# small ones by themselves
TOLERANCE = {"fp32": 1e-5, "bf16": 5e-2}
MEGABYTES = 1_000_000


@pytest.fixture(params=DEVICES)
def ranks(request):
    yield comm.init(request.param, timeout=60)
    comm.close()


@pytest.mark.parametrize("precision", list(TOLERANCE))
@pytest.mark.parametrize("zero", ZERO)
def test_training_matches_adamw_of_torch(ranks, zero, precision):
    """Gradient clipping and averaged weights included. Weights unused in a step keep their bits."""
    case = toy.Case(zero, precision, clip=1.0, ema=0.9, flat=zero != "zero0")
    expected, ema, norms = toy.reference(case, device=ranks.device)
    engine = toy.start(case, ranks)
    before = toy.gather_tensors(engine)
    for step in range(case.steps):
        norm = toy.train_step(engine, case, step)
        after = toy.gather_tensors(engine)
        assert norm == pytest.approx(norms[step], rel=1e-4 if precision == "fp32" else 5e-2)
        unused = toy.unused_names(engine, case, step)
        assert [name for name in unused if not torch.equal(before[name], after[name])] == []
        before = after
    assert toy.max_difference(before, to_cpu(expected)) < TOLERANCE[precision]
    assert toy.max_difference(toy.gather_tensors(engine, "ema"), to_cpu(ema)) < TOLERANCE[precision]


def to_cpu(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu() for name, tensor in tensors.items()}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero", ZERO)
def test_resume_repeats_the_run_bitwise(ranks, tmp_path, zero, precision):
    case = toy.Case(zero, precision, clip=1.0, ema=0.9, flat=True)
    engine = toy.start(case, ranks)
    toy.train(engine, case, 0, 4)
    path = checkpoint.save(engine, tmp_path, 4, {"step": 4})
    toy.train(engine, case, 4, 8)
    resumed = toy.start(case, ranks)
    assert checkpoint.load(resumed, path)["step"] == 4
    toy.train(resumed, case, 4, 8)
    assert differing(toy.full_state(resumed), toy.full_state(engine)) == []


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


class Wide(toy.FlatToy):
    """A toy with 48 MB of further weights, so that their copy to the host takes longer than a training step."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = FlatModule()
        self.wide.add_flat("flat", {"weight": (12, MEGABYTES)})
        with torch.no_grad():
            self.wide.flat.normal_(generator=torch.Generator().manual_seed(0))

    def units(self):
        return super().units() | {"wide": list(self.wide.parameters())}


@pytest.mark.parametrize("zero", ["zero1", "zero3"])
def test_training_goes_on_during_a_save(ranks, tmp_path, zero):
    """Steps right after ``save`` change the weights while the copy runs. The files are those of a save that waits."""
    case = toy.Case(zero, ema=0.5)
    model = Wide()
    engine = Engine(model, model.units(), case.engine(), case.training(), ranks)
    toy.train(engine, case, 0, 2)
    now = checkpoint.save(engine, tmp_path / "now", 2, {})
    saver = Saver(engine, tmp_path / "later")
    for step in range(2, 8, 2):  # the second and third save reuse the staging memory
        path = saver.save(step, {})
        toy.train(engine, case, step, step + 2)
        saver.wait()
        if step == 2:
            first = {file.name: file.read_bytes() for file in path.iterdir()}
    assert first.keys() == {file.name for file in now.iterdir()}
    assert [name for name, content in first.items() if content != (now / name).read_bytes()] == []
    pinned = {tensor.is_pinned() for tensor in saver._staging._memory.values() if tensor.numel()}
    assert pinned == {ranks.device.type == "cuda"}


@pytest.mark.parametrize("device", DEVICES)
def test_a_stage_writes_a_trace_and_its_mfu(tmp_path: Path, device: str) -> None:
    """Two of six steps are profiled. MFU, step time and FLOPs of the card belong together."""
    (tmp_path / "spec.json").write_text(SPEC)
    line = [*launching.command("alone", 1), "-m", "vitas_ds", "retrain", "quickstart", *SETTINGS]
    line += [f"run.device={device}", f"run.dir={tmp_path}", f"retrain.spec={tmp_path}/spec.json"]
    job = launching.start_process(line, launching.environment(DS_ACCELERATOR=device))
    output = launching.wait_for_process(job, line, 120)
    run = tmp_path / "profiled"
    with gzip.open(next(run.rglob("*trace*.json.gz"))) as file:
        kinds = Counter(event.get("cat") for event in json.load(file)["traceEvents"])
    assert kinds["cpu_op"] > 100 and (kinds["kernel"] > 100) == (device == "cuda"), output
    records = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    rates = [record for record in records if "images_per_s" in record]
    assert rates and all(0 <= record["data_wait"] <= 1 for record in rates)
    peak = device_peak(torch.device(device))
    if peak is None:  # a CPU, or a card whose peak is not known
        assert not any("mfu" in record for record in rates)
    else:
        assert all(0 < record["mfu"] < 1 for record in rates)


SPEC = json.dumps({
    "image_size": 28, "patch_size": 7, "embed_dim": 48, "num_classes": 10,
    "layers": [{"num_heads": 2, "qkv_dim": 96, "mlp_dim": 96}] * 3,
})  # fmt: skip
SETTINGS = [
    "run.name=profiled", "data.synthetic=true", "tracking.wandb=disabled", "retrain.epochs=1",
    "retrain.warmup_epochs=0", "retrain.log_every=1", "engine.profile.start=3", "engine.profile.steps=2",
]  # fmt: skip
