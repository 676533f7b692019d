"""The training of one finalist: initial weights, scored weights, micro-batches, teacher.

References: the network extracted from the supernet, plain loops over the search images, and PlainTrainer by hand.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from tests.helpers.finalists import ALONE, Setting, setting
from vitas_ds.data.loader import normalize, train_batches
from vitas_ds.distributed.groups import Group
from vitas_ds.models.extract import extract
from vitas_ds.models.layers import init_weights
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.search.trials.store import Outcome, name_of
from vitas_ds.training.losses import cross_entropy, loss_with_teacher
from vitas_ds.training.plain import PlainTrainer
from vitas_ds.training.teacher import TeacherNetwork

BASE = ("search.finalists.count=2", "search.finalists.steps=8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("images")


def train(made: Setting, path, until: int, group: Group | None = None) -> tuple[Outcome, dict[str, torch.Tensor]]:
    """Train the first candidate; return its result and the tensors of its state."""
    trial = made.trial(path, group)
    assert trial.run(until, lambda step, loss: None)
    name = name_of(trial.spec)
    outcome = trial.store.outcome(name, until)
    assert outcome is not None
    return outcome, load_file(trial.store.run.finalist_states / f"{name}.safetensors")


@torch.inference_mode()
def measure(made: Setting, net: torch.nn.Module) -> tuple[float, float]:
    """Return accuracy and loss on the search images, one image after the other."""
    labels = torch.from_numpy(made.inputs.images.labels)
    logits = torch.cat([net.eval()(normalize(image[None], made.config.data)) for image in made.inputs.pixels])
    return (logits.argmax(-1) == labels).double().mean().item(), F.cross_entropy(logits, labels).item()


@pytest.mark.parametrize("sharing", ["bilateral", "ordinal"])
def test_inherited_weights_are_those_of_the_better_side(folder, tmp_path, sharing):
    """The learning rate of the first step is 0, so the weights after it are the initial ones."""
    made = setting(folder, *BASE, "search.finalists.init=supernet", sharing=sharing)
    supernet, spec = made.inputs.supernet, made.candidates[0].spec
    results = {side: measure(made, extract(supernet, spec, side)) for side in supernet.sides}
    assert len({accuracy for accuracy, _ in results.values()}) == len(results), "choose another seed"
    outcome, state = train(made, tmp_path, 1)
    best = max(results, key=lambda side: results[side][0])
    assert outcome.side == best and outcome.accuracy == results[best][0]
    assert outcome.loss == pytest.approx(results[best][1], rel=1e-5)
    expected = extract(supernet, spec, best).state_dict()
    assert all(torch.equal(state[f"model/{name}"], value) for name, value in expected.items())


@pytest.mark.parametrize(
    "overrides",
    [["retrain.drop_path_rate=0.3"], ["retrain.ema_decay=0.6"], ["engine.precision=bf16"], ["teacher"]],
    ids=lambda words: words[0],
)
def test_training_equals_the_trainer_by_hand(folder, tmp_path, overrides):
    made = setting(folder, *BASE, *(word for word in overrides if "=" in word))
    config, spec = made.config, made.candidates[0].spec
    teacher = None
    if overrides == ["teacher"]:
        teacher = TeacherNetwork(extract(made.inputs.supernet, made.candidates[1].spec).eval(), "digest", "fp32")
        made = replace(made, inputs=replace(made.inputs, teacher=teacher))
    net = VisionTransformer(spec, config.retrain.drop_path_rate, class_token_only=True)
    init_weights(net, config.run.seed, config.retrain.init_std)

    def losses(images, targets, step):
        if teacher is None:
            yield cross_entropy(net(images)[None], targets, "loss_mean")
        else:
            expected = teacher(images)
            yield loss_with_teacher(net(images)[None], targets, expected, "loss_mean", config.retrain.teacher)

    batches = train_batches(
        made.inputs.training, config.data, config.retrain.augment, 28, 16, config.run.seed, 0, ALONE
    )
    precision = config.engine.precision
    trainer = PlainTrainer(net, config.retrain, 8, losses, 10, config.run.seed, precision)
    trainer.run((batch.images, batch.labels) for batch in batches)
    outcome, state = train(made, tmp_path, 8)
    assert all(torch.equal(state[f"model/{name}"], value) for name, value in net.state_dict().items())
    if config.retrain.ema_decay:
        net.load_state_dict(trainer.averages)
    accuracy, loss = measure(made, net)
    assert outcome.accuracy == pytest.approx(accuracy, abs=0.02 if precision == "bf16" else 0)
    assert outcome.loss == pytest.approx(loss, rel=0.01 if precision == "bf16" else 1e-5)


def test_micro_batches_do_not_change_the_training(folder, tmp_path):
    """A rank that forms one of four groups has four micro-batches. Drop path draws the same masks."""
    made = setting(folder, *BASE, "retrain.drop_path_rate=0.5")
    _, one = train(made, tmp_path / "one", 8)
    _, four = train(made, tmp_path / "four", 8, Group(index=2, count=4))
    assert max((one[name] - four[name]).abs().max() for name in one) < 1e-4  # 0.04 with other masks
