"""The engine on one rank.

References: the same training in plain torch or without the tested option.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters as counts

from tests.helpers import toy_supernet as toy
from vitas_ds import config
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.distributed import comm
from vitas_ds.engine.ds_config import ds_config
from vitas_ds.engine.engine import Engine, _initialize
from vitas_ds.engine.optimizer import UnitAdamW
from vitas_ds.errors import UserError
from vitas_ds.models.flat import tensor_places
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.models.vit import VisionTransformer


def test_steps_of_other_units_are_refused(ranks: comm.Ranks) -> None:
    """As of a training with frozen weights that goes on without."""
    engine = toy.start(toy.Case("zero0"), ranks)
    state = engine.state()
    with pytest.raises(UserError, match=r"^resume_from: a training with other frozen .*steps of frozen.*init_weights"):
        engine.restore(state | {"steps": state["steps"] | {"frozen": 3}})
    engine.restore(state)


@pytest.fixture
def ranks() -> comm.Ranks:
    return comm.init("cpu", timeout=60)


def test_fp16_is_refused_on_the_cpu(ranks: comm.Ranks) -> None:
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        toy.start(toy.Case(precision="fp16"), ranks)


def test_an_accelerator_other_than_the_device(ranks: comm.Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    with pytest.raises(UserError, match=r"DS_ACCELERATOR: is cuda, .* unset it, or use run\.device=cuda"):
        toy.start(toy.Case(), ranks)


def test_deepspeed_does_not_disable_autocast(ranks: comm.Ranks) -> None:
    """DeepSpeed disables autocast in its forward pass if the flag for CUDA is set when the pass starts."""
    engine = toy.start(toy.Case(precision="bf16"), ranks)
    x, _ = toy.batch_of(0, 4)
    before = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", True)  # as autocast does on a GPU
    try:
        assert engine(x, toy.subnets_of(0, 1)[0]).dtype == torch.bfloat16
    finally:
        torch.set_autocast_enabled("cuda", before)


def test_closing_the_job_restores_linear(ranks: comm.Ranks) -> None:
    """ZeRO-3 replaces F.linear in the whole process."""
    linear = nn.functional.linear
    toy.start(toy.Case("zero3"), ranks)
    assert nn.functional.linear is not linear
    comm.close()
    assert nn.functional.linear is linear


def test_units_must_cover_the_network(ranks: comm.Ranks) -> None:
    model, case = toy.Toy(), toy.Case()
    units = model.units()
    with pytest.raises(AssertionError, match="in two"):
        Engine(model, units | {"again": units["head"]}, case.engine(), case.training(), ranks)
    del units["head"]
    with pytest.raises(AssertionError, match="not the network's"):
        Engine(model, units, case.engine(), case.training(), ranks)


def test_settings_that_deepspeed_rejects_are_one_line(ranks: comm.Ranks, tmp_path: Path) -> None:
    path = tmp_path / "zero.json"
    path.write_text('{"zero_optimization": {"stage": 1}, "communication_data_type": "fp13"}')
    with pytest.raises(UserError, match=r"^engine\.zero: DeepSpeed rejects the settings: .*data_type") as error:
        toy.start(toy.Case(str(path)), ranks)
    assert "\n" not in str(error.value)


def test_a_bug_is_not_an_error_in_the_settings(ranks: comm.Ranks) -> None:
    """DeepSpeed checks more than its settings, such as an optimizer that holds a parameter twice."""
    net, case = nn.Linear(6, 3), toy.Case("zero1")
    optimizer = UnitAdamW(list(net.parameters()), {"all": list(net.parameters())}, case.training())
    optimizer.param_groups.append(optimizer.param_groups[0])
    with pytest.raises(AssertionError, match="occurs multiple times"):
        _initialize(net, optimizer, ds_config(case.engine(), case.training(), 1), ranks)


def test_a_fixed_network_is_one_unit(ranks: comm.Ranks) -> None:
    """As in retrain, against torch.optim.AdamW."""
    torch.manual_seed(0)
    net, twin = nn.Linear(6, 3), nn.Linear(6, 3)
    twin.load_state_dict(net.state_dict())
    training = config.Training(batch_size=4)
    engine = Engine(net, {"all": list(net.parameters())}, config.Engine(precision="fp32"), training, ranks)
    groups = [{"params": [twin.bias], "weight_decay": 0.0}, {"params": [twin.weight]}]
    adamw = torch.optim.AdamW(groups, lr=1e-2, weight_decay=training.weight_decay)
    for step in range(5):
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        engine.backward(engine(x).square().mean())
        engine.step({"all"}, 1e-2)
        adamw.zero_grad()
        twin(x).square().mean().backward()
        adamw.step()
    torch.testing.assert_close(net.weight, twin.weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(net.bias, twin.bias, rtol=0, atol=1e-6)


@pytest.mark.parametrize("zero", ["zero0", "zero1", "zero3"])
def test_a_step_changes_only_the_units_of_the_subnet(ranks: comm.Ranks, zero: str) -> None:
    """Both sides of the real supernet: the weights that change are those of ``units_used``."""
    torch.manual_seed(0)
    space = SearchSpace(
        image_size=16, patch_sizes=(4, 8), depth=3, num_heads=(1, 2), embed_dim=20, qkv_dim=60, mlp_dim=40,
        num_classes=4,
    )  # fmt: skip
    model = Supernet(space, "bilateral", 2)
    for p in model.parameters():  # with a zero head, all other gradients would be zero
        nn.init.normal_(p, std=0.1)
    unit_of = {p: unit for unit, params in model.units().items() for p in params}
    unit_of_name = {name: unit_of[place.parameter] for name, place in tensor_places(model).items()}
    training = config.Training(batch_size=2, weight_decay=0.1)
    engine = Engine(model, model.units(), config.Engine(zero=zero, precision="fp32"), training, ranks)
    layer = LayerSpec(num_heads=2, qkv_dim=60, mlp_dim=40)
    spec = SubnetSpec(16, 8, 20, 4, (layer, None, layer))
    used = model.units_used(spec)
    before = toy.gather_tensors(engine)
    engine.backward(engine(torch.randn(2, 3, 16, 16), spec).sum(0).square().mean())
    engine.step(used, 1e-2)
    after = toy.gather_tensors(engine)
    for name in before:
        same = torch.equal(before[name], after[name])
        assert same == (unit_of_name[name] not in used), name


def test_a_gradient_of_an_unused_unit_is_an_error(ranks: comm.Ranks) -> None:
    engine = toy.start(toy.Case("zero1"), ranks)
    x, _ = toy.batch_of(0, 4)
    engine.backward(engine(x, (0, (1,), 24)).square().mean())
    with pytest.raises(AssertionError, match=r"layers\.1\.\S+ has a gradient"):
        engine.step({"stem0", "head"}, 1e-2)


@pytest.mark.parametrize("zero", ["zero0", "zero2", "zero3"])
def test_grad_checkpointing_does_not_change_the_weights(ranks: comm.Ranks, zero: str) -> None:
    """``engine.grad_checkpointing`` on the network of retrain, under ZeRO."""
    spec = SubnetSpec(16, 8, 12, 4, (LayerSpec(2, 36, 24), LayerSpec(3, 36, 16)))
    images, weights = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), []
    for recompute in (False, True):
        net = VisionTransformer(spec, grad_checkpointing=recompute)
        init_weights(net, 0)
        settings, training = config.Engine(zero=zero, precision="fp32"), config.Training(batch_size=4, clip_grad=1.0)
        engine = Engine(net, {"all": list(net.parameters())}, settings, training, ranks)
        for _ in range(3):
            engine.backward((engine(images) - 1).square().mean())
            engine.step({"all"}, 1e-2)
        weights.append(toy.gather_tensors(engine))
    assert toy.max_difference(*weights) < 1e-6


@pytest.mark.parametrize("zero", ["zero0", "zero3"])
def test_names_and_buffers_do_not_depend_on_the_layout(ranks: comm.Ranks, zero: str) -> None:
    """Of a flat network, the engine knows the named tensors. In stage 3, its parameters are empty here."""
    plain, flat = (toy.start(toy.Case(zero, flat=flat), ranks) for flat in (False, True))
    assert plain.shapes == flat.shapes and len(flat.shapes) == 20
    flat.model.register_buffer("temporary", torch.ones(1), persistent=False)
    assert flat.buffers().keys() == {"scale"} and flat.buffers()["scale"] is flat.model.scale


@pytest.mark.parametrize("zero", ["zero0", "zero1", "zero2", "zero3", "zero3_offload"])
def test_a_step_returns_the_norm_and_the_loss(ranks: comm.Ranks, zero: str) -> None:
    engine = toy.start(toy.Case(zero, flat=True), ranks)
    x, _ = toy.batch_of(0, 4)
    for scale in (1.0, float("inf")):
        loss = engine(x, (0, (1,), 24)).square().mean() * scale
        engine.backward(loss)
        result = engine.step({"stem0", "layer1", "head"}, 1e-2, loss)
        assert result.loss == float(loss.detach()) and math.isfinite(result.norm) == (scale == 1.0)


@pytest.mark.parametrize("zero", ["zero0", "zero1"])
def test_a_compiled_network_has_the_same_parameter_names(ranks: comm.Ranks, zero: str) -> None:
    """``nn.Module.compile`` keeps the names. No forward pass runs here, so nothing is compiled."""
    net = nn.Linear(2, 2)
    net.compile()
    settings = config.Engine(zero=zero, precision="fp32")
    engine = Engine(net, {"all": list(net.parameters())}, settings, config.Training(batch_size=1), ranks)
    assert set(engine.shapes) == {"weight", "bias"} and engine.buffers() == {}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs g++ here")
def test_a_compiled_network_trains_like_the_plain_one(ranks: comm.Ranks) -> None:
    """``engine.compile`` as in retrain: really compiled, and one graph without breaks for all steps."""
    spec = SubnetSpec(16, 8, 12, 4, (LayerSpec(2, 36, 24),))
    images, losses = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), []
    for compiled in (False, True):
        net = VisionTransformer(spec)
        init_weights(net, 0)
        torch._dynamo.reset()
        counts.clear()
        if compiled:
            net.compile()
        settings, training = config.Engine(zero="zero1", precision="fp32"), config.Training(batch_size=4)
        engine = Engine(net, {"all": list(net.parameters())}, settings, training, ranks)
        for _ in range(3):
            loss = (engine(images) - 1).square().mean()
            losses.append(loss.item())
            engine.backward(loss)
            engine.step({"all"}, 1e-2)
        assert counts["stats"]["unique_graphs"] == int(compiled) and not counts["graph_break"]
    assert losses[3:] == pytest.approx(losses[:3], rel=1e-5) and losses[0] > 1.1 * losses[2]
