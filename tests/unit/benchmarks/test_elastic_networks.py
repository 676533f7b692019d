"""Networks pruned in one shot, of tests/benchmarks/elastic.

References: the start network with zeros in place of the removed units, and budgets.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.benchmarks.elastic import networks, scores
from tests.helpers.digits import write_digits
from tests.helpers.networks import random_network
from vitas_ds.arch import genome
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import LayerSpec, SubnetSpec, spec_from_dict
from vitas_ds.config import dump
from vitas_ds.data.loader import eval_batches
from vitas_ds.data.sources import hold_out, read_folder
from vitas_ds.distributed.comm import Ranks
from vitas_ds.elastic.scores import LayerScores, Scores, write_scores
from vitas_ds.export.folder import Preprocess, read_model, write_model
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.recipe import load
from vitas_ds.run.files import write_text
from vitas_ds.run.run_dir import RunDir

CONFIG = load("elastic_cifar10", ["data.train=train", "data.val=test"])
LARGEST = genome.decode(CONFIG.space, genome.largest(CONFIG.space)).canonical()
LIMITS = (20e6, 30e6, 40e6)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run whose start network has random weights, and random importance in decreasing order."""
    run, rng = RunDir(tmp_path_factory.mktemp("run")), np.random.default_rng(0)

    def falling(count: int) -> tuple[float, ...]:
        return tuple((-np.sort(-rng.random(count))).tolist())

    layers = tuple(LayerScores(falling(4), falling(128), falling(128), falling(256), 0.1 * i, 0, 0) for i in range(6))
    run.importance.parent.mkdir()
    write_scores(run.importance, Scores("w", "d", 1, "labels", falling(128), layers))
    write_text(run.config, dump(CONFIG))
    preprocess = Preprocess(32, CONFIG.data.mean, CONFIG.data.std, ())
    write_model(random_network(LARGEST), run.pretrained, preprocess, "start", {})
    return run


def narrow(spec: SubnetSpec) -> float:
    """Prefer networks with 4 layers and a narrow embed_dim."""
    return -spec.depth - spec.embed_dim / 1000


def test_networks_use_their_budgets_and_the_best_score_counts(run):
    found, macs = networks.by_importance(run, 0, narrow)
    assert found.keys() == {"uniform", "greedy", "random"}
    for name, specs in found.items():
        for data, limit in zip(specs, LIMITS, strict=True):
            spec = spec_from_dict(data)
            assert (0.85 if name == "random" else 0.7) * limit < spec_macs(spec) <= limit, name
            assert name != "uniform" or len(set(spec.layers)) == 1
            assert name == "random" or spec.depth == 4
    deep = networks.by_importance(run, 0, lambda spec: -narrow(spec))[0]
    for name in ("uniform", "greedy"):
        assert {(spec["embed_dim"], len(spec["layers"])) for spec in deep[name]} == {(128, 6)}
        used = [spec_macs(spec_from_dict(spec)) / limit for spec, limit in zip(deep[name], LIMITS, strict=True)]
        assert all(0.85 < share <= 1 for share in used)
        assert 5 * sum(LIMITS) < sum(macs[name]) <= 9 * sum(LIMITS)  # 3 depths, 3 widths; some too small
    again, other = (networks.by_importance(run, seed, narrow)[0] for seed in (0, 1))
    assert all(count <= 9 * limit for found in macs.values() for count, limit in zip(found, LIMITS, strict=True))
    assert again == found and other["random"] != found["random"] and other["greedy"] == found["greedy"]


@torch.no_grad()
def test_scores_are_those_of_the_loader_of_evaluations(tmp_path):
    digits, run = write_digits(tmp_path / "digits", train_per_class=20), RunDir(tmp_path / "run")
    words = [f"data.train={digits}/train", f"data.val={digits}/val", "data.search_per_class=8"]
    config = load("elastic_cifar10", words)
    _, images = hold_out(read_folder(config.data.train), 8, config.run.seed)
    batch = next(eval_batches(images, config.data, 32, len(images), Ranks(0, 1, 0, torch.device("cpu"))))
    net = random_network(LARGEST).eval()
    net.head.bias -= net(batch.images).mean(0)
    fit = torch.linalg.lstsq(net(batch.images), torch.eye(10)[batch.labels]).solution  # to be right more often
    net.head.weight.copy_(fit.T @ net.head.weight)
    net.head.bias.copy_(fit.T @ net.head.bias)
    run.config.parent.mkdir()
    write_text(run.config, dump(config))
    write_model(net, run.pretrained, Preprocess(32, config.data.mean, config.data.std, ()), "start", {})
    right = (net(batch.images).argmax(1) == batch.labels).double().mean().item()
    assert right > 0.3 and scores.on_search_images(run)(LARGEST) == pytest.approx(right)


def test_a_pruned_network_is_the_start_network_with_zeros(run, tmp_path):
    kept = LayerSpec(2, 2 * 3 * 16, 64, softmax_scale=32**-0.5)  # 2 of 4 heads, 16 of their 32 channels
    spec = replace(LARGEST, layers=(kept,) * 6)
    networks.write_pruned(run, spec, tmp_path / "pruned")
    pruned = read_model(tmp_path / "pruned")
    assert pruned.spec == spec
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = with_zeros(read_model(run.pretrained), 2, 16, 64)(x)
        assert torch.allclose(pruned(x), expected, atol=1e-5 * expected.abs().max().item())


def with_zeros(net: VisionTransformer, heads: int, channels: int, mlp: int) -> VisionTransformer:
    removed = torch.ones(4, 32, dtype=torch.bool)
    removed[:heads, :channels] = False
    for block in net.blocks:
        block.attn.qkv.weight[removed.flatten().repeat(3)] = 0
        block.attn.qkv.bias[removed.flatten().repeat(3)] = 0
        block.mlp.fc2.weight[:, mlp:] = 0
    return net


def test_a_pruned_network_is_written_once(run, tmp_path: Path):
    spec = SubnetSpec(32, 4, 96, 10, (LayerSpec(1, 96, 64),) * 4)
    networks.write_pruned(run, spec, tmp_path / "pruned")
    before = (tmp_path / "pruned" / "model.safetensors").stat()
    networks.write_pruned(run, spec, tmp_path / "pruned")
    assert (tmp_path / "pruned" / "model.safetensors").stat() == before
