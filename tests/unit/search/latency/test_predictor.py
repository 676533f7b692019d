"""Features, fit and error of the latency predictor.

References: additive latencies by construction, and measurements on this machine.
"""

import numpy as np
import pytest
import torch

from vitas_ds.arch.cost import layer_macs
from vitas_ds.arch.space import SearchSpace, WidthTable
from vitas_ds.config import Config, Search
from vitas_ds.errors import UserError
from vitas_ds.search.latency.measure import measure_latency
from vitas_ds.search.latency.predictor import LatencyPredictor, fit_predictor, layer_features
from vitas_ds.search.runtime import open_runtime
from vitas_ds.training import sampling

NETS = [sampling.draw(SearchSpace(), 0, step, 0.5) for step in range(60)]


def test_identities_take_no_time_and_layers_add_up():
    predictor = LatencyPredictor(np.arange(1.0, 11), 0, 1)
    padded, plain = WidthTable.from_specs(NETS), [WidthTable.from_specs([net.canonical()]) for net in NETS]
    assert predictor(padded) == pytest.approx(np.concatenate([predictor(table) for table in plain]))
    layers = predictor.layer_seconds(padded)
    assert (layers[padded.num_heads == 0] == 0).all() and (layers[padded.num_heads > 0] > 0).all()
    matrix_products = layer_features(padded)[..., 1:4].sum(2)
    assert (matrix_products == layer_macs(padded)).all()


def test_the_fit_recovers_additive_latencies():
    table, rng = WidthTable.from_specs(NETS), np.random.default_rng(0)
    true = LatencyPredictor(np.array([2e-4, 1e-12, 3e-12, 3e-5, 2e-12, 1e-12, 4e-12, 1e-10, 2e-10, 1e-11]), 0, 1)
    exact = fit_predictor(NETS, true(table))
    assert exact.error < 1e-6 and exact.correlation == pytest.approx(1)
    noisy = fit_predictor(NETS, true(table) * rng.normal(1, 0.03, len(NETS)))
    assert noisy.error < 0.06 and noisy.correlation > 0.9
    others = WidthTable.from_specs([sampling.draw(SearchSpace(), 1, step, 0.5) for step in range(50)])
    assert (abs(noisy(others) / true(others) - 1)).mean() < 0.04


def test_equal_latencies_have_no_order():
    """The time of an empty kernel, for every network: the rank correlation is a number."""
    for seed in range(5):
        assert fit_predictor(NETS, np.full(len(NETS), 1e-4), seed).correlation == 0.0


def test_too_few_networks_are_an_error():
    with pytest.raises(UserError, match="needs at least 12 measured networks"):
        fit_predictor(NETS[:11], np.ones(11))


@pytest.mark.long
def test_the_error_on_measured_networks_is_small():
    """48 networks of a small space. Skipped on a busy machine, whose measurements are too noisy."""
    space = SearchSpace(image_size=64, patch_sizes=(8, 16), embed_dim=192, depth=6, num_classes=100)
    nets = [sampling.draw(space, 0, step, 0.3) for step in range(48)]
    runtime = open_runtime(
        Config(search=Search(latency_runtime="torch", latency_precision="fp32")), torch.device("cpu")
    )
    first, second = (np.array([measure_latency(net, runtime, 8, 9, 0.5).seconds for net in nets]) for _ in range(2))
    if abs(first / second - 1).mean() > 0.1:
        pytest.skip(
            f"two measurements of a network differ by {abs(first / second - 1).mean():.0%}: the machine is busy"
        )
    predictor = fit_predictor(nets, np.minimum(first, second))
    print(
        f"mean relative error {predictor.error:.3f}, rank correlation {predictor.correlation:.3f} on held-out networks"
    )
    assert predictor.correlation > 0.9 and predictor.error < 0.15
