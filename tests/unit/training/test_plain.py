"""The plain trainer. References: loops with torch's AdamW, rates and averages by hand, and a second run."""
# B batch, C classes

from __future__ import annotations

import copy
import io
import math
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import toy_supernet as toy
from vitas_ds import config
from vitas_ds.data.mixing import mix
from vitas_ds.models.flat import named_tensors, tensor_places
from vitas_ds.training.plain import PlainTrainer

STEPS, BATCH = 8, 16
SETTINGS: dict[str, Any] = {
    "epochs": 4, "warmup_epochs": 1, "lr": 0.02, "min_lr": 0.001, "weight_decay": 2.0, "betas": (0.8, 0.9),
    "clip_grad": 0.4, "ema_decay": 0.6,
}  # fmt: skip


def batches(start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    return (toy.batch_of(step, BATCH) for step in count(start))


def subnet_trainer(model: toy.Toy, subnets: int = 2, **changed: Any) -> PlainTrainer:
    """Return a trainer of some subnets per step."""

    def losses(x: Tensor, targets: Tensor, step: int) -> Iterator[Tensor]:
        for subnet in toy.subnets_of(step, subnets):
            yield F.cross_entropy(model(x, subnet), targets) / subnets

    return PlainTrainer(model, config.Training(**SETTINGS | changed), STEPS, losses, toy.CLASSES, seed=3)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}


def lr_by_hand(step: int) -> float:
    """Return the rate of SETTINGS in 8 steps: a quarter of them warms up, the others follow half a cosine."""
    if step < 2:
        return 0.02 * step / 2
    return 0.001 + 0.019 * (1 + math.cos(math.pi * (step - 2) / 6)) / 2


def plain_loop(steps: int) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
    """Train the toy in plain torch. Returns its weights, their averages and the last loss."""
    model = toy.Toy()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 2.0}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=1.0, betas=(0.8, 0.9))
    averages = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for step in range(steps):
        x, y = toy.batch_of(step, BATCH)
        loss = sum(F.cross_entropy(model(x, net), y, label_smoothing=0.1) for net in toy.subnets_of(step, 2)) / 2
        adamw.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.4)
        for group in adamw.param_groups:
            group["lr"] = lr_by_hand(step)
        adamw.step()
        for name, tensor in model.state_dict().items():
            averages[name] = 0.6 * averages[name] + 0.4 * tensor
    return snapshot(model), averages, loss.item()


@pytest.mark.parametrize("kind", [toy.Toy, toy.FlatToy])
def test_equals_a_loop_with_torchs_adamw(kind: type[toy.Toy]) -> None:
    """Weights, moments, decay of matrices only, clipping, schedule, label smoothing and averages at once."""
    model = kind()
    trainer = subnet_trainer(model)
    trainer.run(batches())
    weights, averages, loss = plain_loop(STEPS)
    assert trainer.step == STEPS and trainer.loss.item() == pytest.approx(loss, rel=1e-5)
    assert snapshot(model).keys() == weights.keys()
    for name, tensor in snapshot(model).items():
        torch.testing.assert_close(tensor, weights[name], rtol=1e-5, atol=1e-6)
    assert trainer.averages.keys() == averages.keys()
    for name, tensor in trainer.averages.items():
        torch.testing.assert_close(tensor, averages[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [toy.Toy, toy.FlatToy])
def test_unused_units_do_not_change(kind: type[toy.Toy]) -> None:
    """They have moments of earlier steps, which must not move them."""
    model, unchanged = kind(), 0
    trainer = subnet_trainer(model, subnets=1)
    unit_of = {parameter: unit for unit, parameters in model.units().items() for parameter in parameters}
    for step in range(STEPS):
        before = snapshot(model)
        trainer.run(batches(step), step + 1)
        used = model.units_used(*toy.subnets_of(step, 1))
        for name, place in tensor_places(model).items():
            if unit_of[place.parameter] in used:
                assert step == 0 or not torch.equal(place.view(), before[name])  # the rate of step 0 is 0
            else:
                assert torch.equal(place.view(), before[name])
                unchanged += place.parameter in trainer.adamw.state
    assert unchanged > 10


def small_net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 8 * 8, 12), nn.LayerNorm(12), nn.GELU(), nn.Dropout(0.3), nn.Linear(12, 5)
    )


def photos(start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    for step in count(start):
        rng = torch.Generator().manual_seed(step)
        yield torch.randn(6, 3, 8, 8, generator=rng), torch.randint(5, (6,), generator=rng)


def net_trainer(model: nn.Module, steps: int = STEPS, precision: str = "fp32", seed: int = 3, **changed: Any) -> Any:
    def losses(x: Tensor, targets: Tensor, step: int) -> Iterator[Tensor]:
        yield F.cross_entropy(model(x), targets)

    training = config.Training(**SETTINGS | changed)
    return PlainTrainer(model, training, steps, losses, 5, seed, precision)


MIXING = {"mixup": 0.8, "cutmix": 1.0}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_training_is_bitwise_equal(precision: str) -> None:
    """With dropout, mixing and averages. The second trainer starts from other weights, after other random numbers."""
    whole = net_trainer(small_net(0), precision=precision, mixing=MIXING)
    whole.run(photos())
    first = net_trainer(small_net(0), precision=precision, mixing=MIXING)
    first.run(photos(), 3)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    torch.rand(7)
    second = net_trainer(small_net(1), precision=precision, mixing=MIXING)
    second.load_state_dict(torch.load(file))
    assert second.step == 3 and torch.equal(second.loss, first.loss)
    second.run(photos(second.step))
    assert second.step == STEPS and torch.equal(second.loss, whole.loss)
    for part in ("model", "averages"):
        ours, reference = second.state_dict()[part], whole.state_dict()[part]
        assert ours.keys() == reference.keys()
        assert all(torch.equal(ours[name], reference[name]) for name in ours)
    moments = [trainer.adamw.state_dict()["state"] for trainer in (second, whole)]
    assert moments[0].keys() == moments[1].keys() != set()
    for i, state in moments[0].items():
        assert all(torch.equal(state[name], moments[1][i][name]) for name in ("step", "exp_avg", "exp_avg_sq"))


def test_dropout_and_mixing_are_functions_of_seed_and_step() -> None:
    """Reference: mix() for each step, and the mask of dropout after torch.manual_seed in another order."""
    seen: dict[tuple[int, int], list[Tensor]] = {}

    def train(seed: int) -> None:
        torch.rand(seed)  # other random numbers before
        model = small_net(0)

        def losses(x: Tensor, targets: Tensor, step: int) -> Iterator[Tensor]:
            dropped = F.dropout(torch.ones(64))
            seen.setdefault((seed, step), []).extend([x, targets, dropped])
            yield F.cross_entropy(model(x), targets)

        training = config.Training(**SETTINGS | {"mixing": MIXING})
        PlainTrainer(model, training, STEPS, losses, 5, seed).run(photos())

    for seed in (3, 4, 3):
        train(seed)
    for (seed, step), (x, targets, dropped, *again) in seen.items():
        expected = mix(*next(photos(step)), config.Mixing(**MIXING), 5, seed, step, 0)
        assert torch.equal(x, expected[0]) and torch.equal(targets, expected[1])
        for ours, second in zip((x, targets, dropped), again, strict=False):
            assert torch.equal(ours, second)
    masks = [tuple(tensors[2].tolist()) for tensors in seen.values()]
    assert len(set(masks)) == 2 * STEPS


def test_bf16_computes_the_forward_pass_in_bf16_and_keeps_fp32_weights() -> None:
    model, dtypes, inside = small_net(0), [], []

    def look(module: nn.Module, args: Any, output: Tensor) -> None:
        dtypes.append(output.dtype)
        if output.requires_grad:
            output.register_hook(lambda grad: inside.append((grad.dtype, torch.is_autocast_enabled("cpu"))))

    model[1].register_forward_hook(look)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        dtypes.clear()
        inside.clear()
        trainer = net_trainer(model, precision=precision)
        trainer.run(photos(), 2)
        assert dtypes == [dtype] * 2
        assert inside == [(dtype, False)] * 2  # autocast is for the forward pass only
        assert trainer.loss.dtype == torch.float32 and all(p.dtype == torch.float32 for p in model.parameters())
        assert all(state["exp_avg"].dtype == torch.float32 for state in trainer.adamw.state.values())
    assert not torch.is_autocast_enabled("cpu")


def test_bf16_reaches_the_weights_of_a_loop_under_autocast() -> None:
    model = small_net(0)
    net_trainer(model, precision="bf16", clip_grad=0.0, mixing={"smoothing": 0.0}).run(photos(), 3)
    reference = small_net(0)
    adamw = torch.optim.AdamW(
        [{"params": [p], "weight_decay": 2.0 * (p.ndim > 1)} for p in reference.parameters()], lr=1.0, betas=(0.8, 0.9)
    )
    for step, (x, y) in enumerate(islice(photos(), 3)):
        torch.manual_seed(hash((3, step)) & (2**63 - 1))
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(reference(x), y)
        adamw.zero_grad()
        loss.backward()
        for group in adamw.param_groups:
            group["lr"] = lr_by_hand(step)
        adamw.step()
    for ours, expected in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def rates(steps: int, **changed: Any) -> list[float]:
    trainer = net_trainer(small_net(0), steps, **changed)
    found = []
    for step in range(steps):
        trainer.run(photos(step), step + 1)
        found.append(trainer.adamw.param_groups[0]["lr"])
    return found


def test_the_schedule_spans_the_steps_by_hand() -> None:
    """Warm-up from 0 in its share of the steps, the peak, the middle of the cosine, and the last step."""
    found = rates(20, epochs=10, warmup_epochs=2, lr=1e-3, min_lr=1e-4)
    assert found[:5] == pytest.approx([0, 0.25e-3, 0.5e-3, 0.75e-3, 1e-3])
    assert found[12] == pytest.approx(0.55e-3) and max(found) == found[4]
    assert found[19] == pytest.approx(1e-4 + 0.9e-3 * (1 + math.cos(math.pi * 15 / 16)) / 2)
    assert rates(20, epochs=300, warmup_epochs=60, lr=1e-3, min_lr=1e-4) == pytest.approx(found)
    assert rates(4, epochs=10, warmup_epochs=0, lr=1e-3, min_lr=0)[0] == pytest.approx(1e-3)


def test_a_rate_of_0_changes_no_weight() -> None:
    """Neither decay nor moments: the first step of a warm-up."""
    model = small_net(0)
    before = copy.deepcopy(model.state_dict())
    net_trainer(model).run(photos(), 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_run_reads_only_the_batches_it_trains_on() -> None:
    trainer, source = net_trainer(small_net(0)), photos()
    trainer.run(source, 3)
    assert torch.equal(next(source)[0], next(photos(3))[0])
    trainer.run(source, 3)
    trainer.run(source, 2)
    assert trainer.step == 3 and torch.equal(next(source)[0], next(photos(4))[0])
    trainer.run(source)
    trainer.run(source)
    assert trainer.step == STEPS and torch.equal(next(source)[0], next(photos(STEPS + 2))[0])


def test_training_sets_the_mode_of_the_network() -> None:
    model = small_net(0).eval()
    net_trainer(model).run(photos(), 1)
    assert model.training


def test_each_loss_is_backpropagated_before_the_next_one() -> None:
    """Two subnets would otherwise keep their activations at the same time. The loss is the sum."""
    model, grads = small_net(0), []

    def losses(x: Tensor, targets: Tensor, step: int) -> Iterator[Tensor]:
        for factor in (1.0, 2.0):
            grads.append(None if model[1].weight.grad is None else model[1].weight.grad.clone())
            yield factor * F.cross_entropy(model(x), targets)

    trainer = PlainTrainer(model.eval(), config.Training(**SETTINGS), STEPS, losses, 5, 3)
    trainer.run(photos(), 1)
    assert grads[0] is None and grads[1].abs().max() > 0
    targets = F.one_hot(next(photos())[1], 5) * 0.9 + 0.02
    torch.manual_seed(hash((3, 0)) & (2**63 - 1))
    expected = [F.cross_entropy(model(next(photos())[0]), targets) for _ in range(2)]  # the rate of step 0 is 0
    assert trainer.loss.item() == pytest.approx((expected[0] + 2 * expected[1]).item())


def test_without_averages_there_are_none() -> None:
    trainer = net_trainer(small_net(0), ema_decay=0.0)
    trainer.run(photos(), 2)
    assert trainer.averages == {}
