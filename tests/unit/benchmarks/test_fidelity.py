"""The statistics and the document of tests/benchmarks/fidelity.

References: scipy's tau and rho, regrets and values by hand, and the committed results.md.
"""

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from tests.benchmarks.fidelity import (
    agreement,
    alone,
    document,
    jobs,
)
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.truth import Truth
from tests.helpers.paths import ROOT

DOCS = ROOT / "docs" / "fidelity"


def test_tau_and_rho_equal_scipy_also_for_resamples():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 20) / 10, rng.integers(0, 9, 20) / 10  # with ties
    weights = rng.multinomial(20, np.full(20, 1 / 20), 5).astype(float)
    for ours, reference in ((agreement.tau, kendalltau), (agreement.rho, spearmanr)):
        assert ours(a, b)[0] == pytest.approx(reference(a, b).statistic)
        for row, found in zip(weights.astype(int), ours(a, b, weights), strict=True):
            assert found == pytest.approx(reference(np.repeat(a, row), np.repeat(b, row)).statistic)
        assert ours(a, np.ones(20))[0] == 0


def test_agreement_is_the_mean_of_scipys_tau_inside_its_interval():
    a, b = np.random.default_rng(0).permutation(20), np.arange(20)
    found = agreement.agreement(agreement.tau, np.array([a, b]), b)
    assert found.value == pytest.approx((kendalltau(a, b).statistic + 1) / 2)
    assert found.low < found.value < found.high


def test_regret_by_hand():
    truth = np.array([0.9, 0.8, 0.95, 0.7])
    scores = np.array([[1.0, 3.0, 0.0, 2.0], [0.0, 1.0, 5.0, 2.0]])
    assert agreement.regret(scores, truth, 1) == pytest.approx((0.8 - 0.95 + 0.0) / 2)
    assert agreement.regret(scores, truth, 3) == pytest.approx((0.9 - 0.95 + 0.0) / 2)


def test_pairs_with_different_labels_do_not_count_by_hand():
    a, b, like = np.array([1, 2, 9, 8]), np.array([1, 2, 3, 4]), np.array([0, 0, 1, 1])
    assert agreement.tau(a, b)[0] == pytest.approx(4 / 6)
    assert agreement.tau(a, b, like=like)[0] == 0  # one pair per group, in opposite orders


def test_an_interval_includes_the_noise_of_the_seeds():
    """Reference: one seed that ranks well and one at random."""
    truth, rng = np.arange(40.0), np.random.default_rng(0)
    good, bad = truth + rng.normal(size=40), rng.normal(size=40)
    both, one = (agreement.agreement(agreement.tau, np.array(rows), truth) for rows in ([good, bad], [good]))
    assert both.low < 0.2 and both.high > 0.8  # a resample may draw either seed twice
    assert one.high - one.low < 0.2


def test_differences_are_taken_within_a_seed():
    """Reference: the difference of scores to themselves is 0."""
    truth, rng = np.arange(20.0), np.random.default_rng(0)
    rows = rng.permutation(20)[None], truth[None]
    same = agreement.agreement(agreement.tau, np.concatenate(rows), truth, np.concatenate(rows))
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_oracle_equals_scipys_tau_with_the_true_quality():
    rng = np.random.default_rng(0)
    quality, like = rng.normal(size=4000), rng.integers(0, 2, 4000)
    trained = quality + 3 * like + rng.normal(size=(2, 4000))
    expected = kendalltau(quality, trained.mean(0) - 3 * like).statistic
    assert agreement._oracle(trained, like) == pytest.approx(expected, abs=0.02)
    assert agreement._oracle(trained, 0 * like) > expected + 0.1  # pairs with different labels are easy


def test_random_regret_by_hand():
    truth = np.array([0.9, 0.8, 0.95])
    assert agreement.random_regret(truth, 1) == pytest.approx(truth.mean() - 0.95)
    assert agreement.random_regret(truth, 2) == pytest.approx((0.95 + 0.95 + 0.9) / 3 - 0.95)
    assert agreement.random_regret(truth, 5) == 0


def trained(name: str, seed: int, accuracy: float, kind: str = "net") -> dict:
    what = {"patch_size": 7 if name < "equal 02" else 14, "layers": [0]}
    job = f"{name}{jobs.LONGER if kind == 'longer' else ''}, seed {seed}"
    return {"job": job, "kind": kind, "what": what, "seed": seed, "accuracy": accuracy, "macs": 1, "steps": 10}


@pytest.mark.parametrize(("gain", "verdict"), [(0.001, "They are trained"), (0.1, "**not**")])
def test_training_is_long_enough_if_more_steps_gain_less_than_another_seed(tmp_path, gain, verdict):
    """Gains by hand: 0.02 between seeds, and a gain below or above that."""
    record = Record(tmp_path / "record.jsonl")
    for i in range(4):
        for seed in (0, 1):
            record.add(trained(f"equal {i:02}", seed, 0.9 + 0.02 * seed))
    for name in ("equal 00", "equal 02"):
        record.add(trained(name, 0, 0.91 + gain * (name == "equal 02"), "longer"))
    assert verdict in alone.settled(record, Truth(record))


def test_a_lower_loss_is_better_by_hand(tmp_path):
    record = Record(tmp_path / "record.jsonl")
    for i, loss in enumerate((0.3, 0.1, 0.2)):
        record.add(trained(f"spread {i:02}", 0, 0.9) | {"loss": loss})
    assert Truth(record, "loss").tau("all", -np.array([[0.3, 0.1, 0.2]])).value == 1
    assert Truth(record).tau("all", -np.array([[0.3, 0.1, 0.2]])).value == 0


def test_committed_document_equals_that_of_its_record():
    record = Record(DOCS / "record.jsonl")
    assert (DOCS / "results.md").read_text() == document.text(record)
