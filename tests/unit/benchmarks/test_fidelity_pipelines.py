"""Whole searches in tests/benchmarks/fidelity. References: costs counted by hand, a linear truth."""

from dataclasses import replace

import numpy as np
import pytest

from tests.benchmarks.fidelity import comparison, pipelines, regression, supernets
from tests.helpers.fidelity_records import STAMP
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.space import WidthTable
from vitas_ds.arch.spec import spec_from_dict
from vitas_ds.search.trials import correction


@pytest.fixture
def context(work, shown, tmp_path):
    study = replace(work.study, size=replace(work.study.size, steps=0.5))  # 12 steps: enough for the rungs
    return pipelines.Context(study, shown, 1, tmp_path)


def unit(context) -> float:
    """Return the MACs of forward passes of one image that 3 passes of a training add up to, by hand."""
    return 3 * context.study.net_steps * 50 * sum(context.study.budget) / 2


def test_a_regression_orders_a_linear_truth(context):
    nets = context.random_nets(60)
    features = correction.genes(WidthTable.from_specs(nets))
    truth = features @ np.array([-3.0, 0.5, 1.0, 2.0, -1.0, 0.3])
    predicted = regression.fit(features[:40], truth[:40])(features[40:])
    assert np.corrcoef(predicted, truth[40:])[0, 1] > 0.98
    assert predicted.mean() == pytest.approx(truth[40:].mean(), abs=0.2 * truth.std())


def test_features_by_hand(context):
    net = context.random_nets(1)[0]
    heads, qkv, mlp = (
        np.mean([getattr(layer, name) for layer in net.active]) for name in ("num_heads", "qkv_dim", "mlp_dim")
    )
    expected = np.log2([net.patch_size, net.embed_dim, net.depth, heads, qkv, mlp])
    assert correction.genes(WidthTable.from_specs([net]))[0] == pytest.approx(expected)


def test_the_search_by_regression_counts_its_trainings(context):
    size, steps = context.study.size, context.study.net_steps
    found = pipelines.with_regression(context)
    nets = context.random_nets(size.fitted)
    fitted = 3 * 50 * round(steps / 4) * sum(map(spec_macs, nets))
    assert found["fitting_units"] == pytest.approx(fitted / unit(context)) and len(found["accuracies"]) == size.fitted
    curves = found["finalists"]["curves"]
    assert len(curves) == pipelines.COUNT and found["pick"] in [row["spec"] for row in curves]
    low, high = context.study.budget
    assert all(low <= spec_macs(spec_from_dict(row["spec"])) <= high for row in curves)
    row = STAMP | {"result": found, "seed": 1, "what": {"method": "regression", "macs": list(context.study.budget)}}
    plain, with_finalists = comparison.ends(row)
    assert plain.units == found["fitting_units"] < with_finalists.units and plain.spec == found["pick"]
    assert with_finalists.method in comparison.METHODS and with_finalists.spec == found["finalists"]["pick"]


def test_a_correction_adds_genes_to_a_score(context):
    """The accuracy depends on the score and on the embedding width, which the score ignores."""
    nets = context.random_nets(60)
    noise = dict(zip([net.key() for net in nets], np.random.default_rng(0).normal(size=60), strict=True))
    truth = np.array([0.5 + 0.01 * noise[net.key()] - 0.02 * np.log2(net.embed_dim) for net in nets])
    corrected = pipelines._corrected(nets[:40], truth[:40], lambda net: noise[net.key()])
    found = np.array([corrected(net) for net in nets[40:]])
    assert np.corrcoef(found, truth[40:])[0, 1] > 0.99
    assert np.corrcoef([noise[net.key()] for net in nets[40:]], truth[40:])[0, 1] < 0.9


@pytest.mark.slow
def test_the_searches_on_a_supernet_count_everything(context, monkeypatch):
    monkeypatch.setattr(supernets, "DRAWN", 20)
    study, size, (low, high) = context.study, context.study.size, context.study.budget
    found, by_score = pipelines.with_supernet(context), pipelines.by_score(context)
    nets = context.random_nets(size.corrected)
    images = len(context.images.search[1])  # fewer than SCORED
    fitted = sum(map(spec_macs, nets)) * (3 * 50 * round(study.net_steps / 4) + images)
    assert found["fitting_units"] == pytest.approx(fitted / unit(context)) and len(found["accuracies"]) == len(nets)
    assert found["supernet_units"] == pytest.approx(1.25, rel=0.5) and by_score["supernet_units"] > 4
    scored = size.population * size.generations * images * (low + high) / 2 / unit(context)
    for method, result, expected in (
        ("supernet", found, {"ga": "evolution", "random": "random search"}),
        ("scores", by_score, {"ga": "scores alone"}),
    ):  # fmt: skip
        row = STAMP | {"result": result, "seed": 1, "what": {"method": method, "macs": [low, high]}}
        ends = {end.method: end for end in comparison.ends(row)}
        assert len(ends) == 2 * len(expected) and ends.keys() <= comparison.METHODS.keys()
        for algorithm, name in expected.items():
            of = result[algorithm]
            assert 0.5 * scored < of["scoring_units"] <= 1.05 * scored
            plain, finalists = ends[f"supernet, {name}"], ends[f"supernet, {name}, finalists"]
            before = result["supernet_units"] + result.get("fitting_units", 0)
            assert plain.units == pytest.approx(before + of["scoring_units"])
            assert finalists.units == pytest.approx(plain.units + of["finalists"]["units"])
            assert finalists.spec in [row["spec"] for row in of["finalists"]["curves"]]


def test_random_halving_counts_its_trainings(context):
    """Of 8 networks, 4 go on after 1/8 of the 12 steps, 2 after 1/4, 1 after 1/2."""
    both = pipelines.random_halving(context)
    for count, longest in (("8", [2, 2, 2, 2, 3, 3, 6, 12]), ("4", [2, 2, 3, 12])):
        found, steps = both[count], [max(map(int, row["curve"])) for row in both[count]["curves"]]
        assert sorted(steps) == longest
        total = sum(3 * 50 * n * spec_macs(spec_from_dict(row["spec"]))
                    for row, n in zip(found["curves"], steps, strict=True))  # fmt: skip
        assert found["units"] == pytest.approx(total / unit(context))
        assert found["pick"] == found["curves"][steps.index(context.study.net_steps)]["spec"]


def test_shapes_by_hand_have_equal_layers_within_the_budget(context):
    low, high = context.study.budget
    for name, found in pipelines.by_hand(context).items():
        spec = spec_from_dict(found["pick"])
        assert name == f"patch {spec.patch_size}" and len(set(spec.active)) == 1 and low <= spec_macs(spec) <= high
