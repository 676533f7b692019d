"""The study of tests/benchmarks/fidelity: its figures by hand, its defects, its record and document."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, spearmanr

from tests.benchmarks.fidelity import agreement, defects, document, jobs, learning, study
from tests.benchmarks.fidelity.record import Record
from vitas_ds import config, genome
from vitas_ds.cost import spec_macs
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet

DOCS = Path(__file__).parents[2] / "docs" / "fidelity"


def test_tau_and_rho_are_scipys_also_of_resamples():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 20) / 10, rng.integers(0, 9, 20) / 10  # with ties
    weights = rng.multinomial(20, np.full(20, 1 / 20), 5).astype(float)
    for ours, scipys in ((agreement.tau, kendalltau), (agreement.rho, spearmanr)):
        assert ours(a, b)[0] == pytest.approx(scipys(a, b).statistic)
        for row, found in zip(weights.astype(int), ours(a, b, weights), strict=True):
            assert found == pytest.approx(scipys(np.repeat(a, row), np.repeat(b, row)).statistic)
        assert ours(a, np.ones(20))[0] == 0


def test_an_agreement_is_the_mean_of_its_rows_inside_its_interval():
    a, b = np.random.default_rng(0).permutation(20), np.arange(20)
    found = agreement.agreement(agreement.tau, np.array([a, b]), b)
    assert found.value == pytest.approx((kendalltau(a, b).statistic + 1) / 2)
    assert found.low < found.value < found.high


def test_regret_by_hand():
    truth = np.array([0.9, 0.8, 0.95, 0.7])
    scores = np.array([[1.0, 3.0, 0.0, 2.0], [0.0, 1.0, 5.0, 2.0]])
    assert agreement.regret(scores, truth, 1) == pytest.approx((0.8 - 0.95 + 0.0) / 2)
    assert agreement.regret(scores, truth, 3) == pytest.approx((0.9 - 0.95 + 0.0) / 2)


def test_nets_of_the_study():
    nets = study.nets(study.FULL)
    assert len({json.dumps(net.to_dict()) for net in nets.values()}) == 36
    costs = {name: spec_macs(net) for name, net in nets.items()}
    equal = [cost for name, cost in costs.items() if name.startswith("equal")]
    assert len(equal) == 12 and max(equal) < 1.03 * min(equal)
    assert max(costs.values()) > 6 * min(costs.values())
    extremes = [spec_macs(genome.decode(study.SPACE, of(study.SPACE))) for of in (genome.smallest, genome.largest)]
    assert extremes[1] > 6 * extremes[0]


def test_misplaced_widths_are_those_of_other_positions():
    """Layers at positions 1 and 4 take the widths of positions 0 and 1."""
    genes = [0, 2, 3, 4, 3, 1, 2, 1, 3, 0, 0, 3, 0, 0, 0, 1, 2]  # patch, embedding, five of (operator, q/k/v, MLP)
    spec = genome.decode(study.SPACE.model_copy(update={"identity_shift": False}), np.array(genes))
    seen = {defects.misplaced(spec, np.random.default_rng(seed)).layers for seed in range(60)}
    heads = {tuple(layer and layer.num_heads for layer in layers) for layers in seen}
    assert heads == {(None, 4, None, None, 2)}
    second = {(layers[4].qkv_dim, layers[4].mlp_dim) for layers in seen}
    assert second == {(study.SPACE.qkv_widths[2], study.SPACE.mlp_widths[1])}  # of the first layer
    first = {(layers[1].qkv_dim, layers[1].mlp_dim) for layers in seen}
    assert len(first) > 5  # of a skipped position, whose genes are random


def test_with_no_layer_skipped_nothing_is_misplaced():
    spec = genome.decode(study.SPACE, genome.largest(study.SPACE))
    assert defects.misplaced(spec, np.random.default_rng(0)) == spec


def logits(supernet: Supernet, spec, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return supernet(images, spec)


def test_one_position_is_blind_to_where_patches_are():
    images = torch.randn(4, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    turned = images.roll((14, 14), (2, 3))  # whole patches of 7 and of 14
    spec = next(iter(study.nets(study.SMALL).values()))
    for defect, same in ((None, False), ("position", True)):
        supernet = Supernet(study.SPACE, "ordinal")
        init_weights(supernet, 0, std=None)
        torch.nn.init.normal_(supernet.stem(spec).pos_embed)
        defects.give(supernet, defect)
        assert torch.allclose(*(logits(supernet, spec, x) for x in (images, turned)), atol=1e-5) is same


def test_one_stem_trains():
    supernet = Supernet(study.SPACE, "ordinal")
    defects.give(supernet, "stem")
    trained = {name for name, p in supernet.named_parameters() if "stems" in name and p.requires_grad}
    assert {name.split(".")[1] for name in trained} == {"patch7"}


def test_fair_sampling_takes_each_choice_equally_often():
    variant = study.Variant("fair", config.Supernet(sharing="ordinal"), fair=True)
    nets = [learning.nets_of_step(variant, 0, step)[0] for step in range(60)]  # 60 is a multiple of all sizes
    for counts, choices in (
        (Counter(net.patch_size for net in nets), study.SPACE.patch_sizes),
        (Counter(net.embed_dim for net in nets), study.SPACE.embed_widths),
    ):
        assert counts == dict.fromkeys(choices, 60 // len(choices))


def test_a_torn_line_of_the_record_is_done_again(tmp_path):
    record = Record(tmp_path / "record.jsonl")
    record.add({"job": "a", "kind": "net"})
    with record.path.open("a") as file:
        file.write('{"job": "b", "ki')
    again = Record(record.path)
    assert list(again.rows) == ["a"]
    again.add({"job": "c", "kind": "net"})
    assert list(Record(record.path).rows) == ["a", "c"]


def test_every_job_has_a_name_of_its_own_and_both_seeds():
    names = [job.name for job in jobs.first_jobs(study.FULL)]
    assert len(names) == len(set(names)) == 2 * 36 + 2 * len(study.variants()) - 2  # the long ones once


def test_document_is_what_its_record_says():
    record = Record(DOCS / "record.jsonl")
    assert (DOCS / "results.md").read_text() == document.text(record, document.Truth(record, study.FULL))
