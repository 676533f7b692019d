"""Accuracy against scikit-learn, and a stop request during evaluation."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import top_k_accuracy_score
from torch import nn

from tests.helpers.networks import random_network
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.config import Config
from vitas_ds.data.loader import Batch
from vitas_ds.distributed import comm, preemption
from vitas_ds.errors import Preempted, UserError
from vitas_ds.export.digests import settings_digest
from vitas_ds.export.folder import Preprocess, weights_digest, write_model
from vitas_ds.run.run_dir import RunDir
from vitas_ds.stages.common import model_folder, read_val
from vitas_ds.stages.evaluate import _changed, _count
from vitas_ds.stages.inputs import version_of

LABELS = torch.arange(43) % 8
IMAGES = torch.randn(43, 3, 4, 4, generator=torch.Generator().manual_seed(0))
SIZES = (16, 16, 11)


def batches(stop_after: int | None = None) -> Iterator[Batch]:
    for nth, (images, labels) in enumerate(zip(IMAGES.split(SIZES), LABELS.split(SIZES), strict=True)):
        yield Batch(images, labels, torch.arange(len(labels)))
        if nth == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 8))


def test_hits_equal_scikit_learn(net: nn.Module) -> None:
    ranks = comm.init("cpu", timeout=60)
    with torch.no_grad():
        logits = net(IMAGES).numpy()
    hits = [top_k_accuracy_score(LABELS.numpy(), logits, k=k, normalize=False) for k in (1, 5)]
    assert _count(net, batches(), ranks, "fp32") == [43, *hits]


def test_a_network_without_finite_outputs_classifies_nothing(net: nn.Module) -> None:
    """The three classes of NaN that come first are the labels of some images."""
    ranks = comm.init("cpu", timeout=60)
    net[1].weight.data.fill_(float("nan"))
    assert _count(net, batches(), ranks, "fp32") == [43, 0, 0]


def test_a_missing_file_of_weights_is_named(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.retrain_model.mkdir(parents=True)
    for field in ("evaluate.model", "export.model"):
        with pytest.raises(UserError, match=rf"^{field}: {tmp_path}/retrain/model/model\.safetensors does not exist"):
            model_folder("retrain", field, run)


@pytest.mark.parametrize(
    ("previous", "clause"),
    [
        ({}, ""),
        ({"sha256": "b"}, "the file of weights has changed"),
        ({"precision": "bf16"}, "the precision has changed"),
        ({"settings": "t"}, "spec.json or preprocess.json has changed"),
        ({"settings": None}, ""),  # evaluated by an older version
        ({"val": "elsewhere"}, ""),  # the same images
        ({"val": "elsewhere", "contents": None}, "data.val has changed"),  # evaluated by an older version
        ({"contents": -1}, "the record of its images has changed"),
    ],
)
def test_an_evaluation_is_repeated_after_a_change(tmp_path: Path, previous: dict[str, Any], clause: str) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "val" / label).mkdir(parents=True)
        (tmp_path / "val" / label / "0.jpg").write_bytes(b"")
    config = Config.model_validate({"data": {"val": str(tmp_path / "val")}, "space": {"num_classes": 2}})
    run = RunDir(tmp_path / "run")
    key = {"model": "m", "sha256": "a", "precision": "fp32", "settings": "s", "val": config.data.val}
    known = key | {"contents": version_of(run, "val", read_val(config))}
    assert _changed(config, run, known | previous, key) == clause


def test_another_preprocessing_of_the_same_weights_is_another_network(tmp_path: Path) -> None:
    network, digests = random_network(SubnetSpec(8, 8, 4, 2, (LayerSpec(1, 12, 4),))), set()
    for resize in (8, 16, 16):
        write_model(network, tmp_path / "net", Preprocess(resize), "net", {})
        digests.add((weights_digest(tmp_path / "net"), settings_digest(tmp_path / "net")))
    assert len(digests) == 2 and len({weights for weights, _ in digests}) == 1


def test_stop_request(net: nn.Module) -> None:
    """SIGTERM arrives while the second batch is read."""
    ranks, seen = comm.init("cpu", timeout=60), []
    net.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    with preemption.catch_signals(), pytest.raises(Preempted, match="start it again"):
        _count(net, batches(stop_after=0), ranks, "fp32")
    assert seen == [16, 16]
