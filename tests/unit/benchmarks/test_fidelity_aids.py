"""Trainings with inherited weights and with a teacher, tests/benchmarks/fidelity/aids.py.

References: the supernet itself at a learning rate of 0, the loss by hand, and a synthetic record.
"""

import pytest
import torch
from torch.nn import functional as F

from tests.benchmarks.fidelity import adapting, aids, document, supernets, training
from tests.benchmarks.fidelity.jobs import aid_jobs
from tests.benchmarks.fidelity.truth import Truth
from tests.benchmarks.fidelity.working import run
from tests.helpers.fidelity_records import add_longer


@pytest.fixture
def trained(work):
    """The path of an untrained supernet nested."""
    (plan,) = supernets.plans(work.study, supernets.NESTED, seed=0)
    model = supernets.make_trainer(plan, work.study, 0).model
    path = work.folder / "supernets" / "nested, seed 0.pt"
    path.parent.mkdir(exist_ok=True)
    torch.save(model.state_dict(), path.with_stem(f"{path.stem} 0"))
    return path


def test_training_without_steps_keeps_the_inherited_weights(work, shown, trained, tmp_path, monkeypatch):
    """At a learning rate of 0, a subnet classifies the validation images as in the supernet."""
    monkeypatch.setattr(supernets, "DRAWN", 20)
    monkeypatch.setattr(aids, "LR", 0.0)
    found = aids.from_supernet(work.study, shown, 0, tmp_path, trained)["inherited weights, lr 0"]
    supernet = adapting.trained_supernet(work.study, "nested", 0, trained).eval()
    pixels, labels = shown.val
    for name, spec in work.study.longer_nets.items():
        with torch.inference_mode():
            (logits,) = supernet(shown.normalized(pixels), spec)
        assert found[name]["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    assert len(found) == 2


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_a_teacher_adds_its_loss_by_hand(work, shown, kind):
    config, spec = work.study.config, next(iter(work.study.nets.values()))
    retrain = config.retrain.model_copy(update={"mixing": config.retrain.mixing.model_copy(update={"smoothing": 0.0})})
    retrain = retrain.model_copy(update={"teacher": config.retrain.teacher.model_copy(update={"kind": kind})})
    config = config.model_copy(update={"retrain": retrain})
    teacher = training.net_trainer(spec, config, 10, seed=7).model
    trainer = training.net_trainer(spec, config, 10, 0, teacher)
    x, labels = next(shown.batches(50, 0))
    with torch.no_grad():
        logits, wanted = trainer.model(x), teacher(x)
    taught = F.cross_entropy(logits, wanted.argmax(1))
    if kind == "soft":
        taught = F.cross_entropy(logits, wanted.softmax(1)) - F.cross_entropy(wanted, wanted.softmax(1))
    trainer.run([(x, labels)], 1)
    assert trainer.loss.item() == pytest.approx((F.cross_entropy(logits, labels) + taught).item() / 2, rel=1e-5)


@pytest.mark.slow
def test_a_job_has_all_subnets_of_each_way(work, trained, record, monkeypatch):
    monkeypatch.setattr(supernets, "DRAWN", 20)
    ways = {}
    for job in aid_jobs(work.study, record)[:2]:
        ways |= run(job, work)["ways"]
    assert list(ways) == ["inherited weights", "inherited weights, lr 0.001", "teacher", "soft teacher", "hard teacher"]
    del ways["teacher"]
    assert all(nets.keys() == work.study.longer_nets.keys() for nets in ways.values())
    assert len({tuple(row["loss"] for row in nets.values()) for nets in ways.values()}) == 4


def test_gains_are_those_over_the_truth(record):
    """The accuracy of "equal NN" alone is 0.5 + NN / 100, and twice as long 0.55 + NN / 100."""
    assert aids.table(record, Truth(record)) == []
    add_longer(record, lambda i, seed: 0.55 + i / 100)
    row = record.of("net")[0] | {"job": "aids", "kind": "aids", "what": "supernet"}
    nets = {"equal 00": {"accuracy": 0.53}, "equal 03": {"accuracy": 0.54}}
    record.add(row | {"ways": {"inherited": nets, "teacher": {"": {"accuracy": 0.9}}}})
    first, longer = aids.table(record, Truth(record))
    assert (first["training"], first["accuracy, %"], first["without an aid"]) == ("inherited", "53.50", "51.50")
    assert (first["gain"].value, first["gain"].low, first["gain"].high) == pytest.approx((2, 1, 3))
    assert (longer["training"], longer["seeds"], longer["gain"].value) == ("no aid, twice as long", 2, pytest.approx(5))
    assert "## Inherited weights and teachers\n" in document.text(record, "cifar10")
