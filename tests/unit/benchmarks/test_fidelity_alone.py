"""Subnets trained alone, in the report of tests/benchmarks/fidelity: parts of a training, rules, and longer trainings.

References: synthetic records whose tau is known, and counts by hand.
"""

import numpy as np
import pytest

from tests.benchmarks.fidelity import alone, early, longer, regression
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.truth import EQUAL, WITHIN, Truth
from tests.helpers.fidelity_records import EQUALS, SPREADS, add_longer, net, supernet


def test_a_part_of_a_training_is_compared_with_another_seed(record):
    """By hand: the curve of seed s repeats the order of its own end, or of the other seed's."""
    for seed, order in ((0, 1), (1, -1)):
        for i, name in enumerate(EQUALS + SPREADS):
            own, other = 0.5 + order * i / 100, 0.5 - order * i / 100
            curve = {"0": {}, "25": {"accuracy": own, "loss": -other}, "100": {"accuracy": 0.5, "loss": 1.0}}
            record.add(net(name, seed, own, curve=curve))
    rows = early.table(record, Truth(record))
    assert [(row["part of the training"], row["score"]) for row in rows] == [
        ("0.25", "accuracy"), ("0.25", "loss"), ("1", "accuracy"), ("1", "loss"),
    ]  # fmt: skip
    assert [row[f"tau, {EQUAL}"].value for row in rows] == pytest.approx([-1, 1, 0, 0])
    record.add(net("equal 00", 0, 0.5))
    assert early.table(record, Truth(record)) == []  # one subnet has no curve


def test_the_regression_predicts_each_subnet_from_the_others(record):
    """Accuracy after 10 steps depends on the patch size alone; the own result of a subnet never counts."""
    for i, name in enumerate(EQUALS):
        for seed in (0, 1):
            early_accuracy = {"accuracy": 0.3 + 0.1 * (i >= 6), "loss": 1.0}
            record.add(net(name, seed, 0.5 + i / 100, curve={"10": early_accuracy, "100": early_accuracy}))
    for name in SPREADS:
        for seed in (0, 1):
            record.add(net(name, seed, 0.4, curve={"10": {"accuracy": 0.1, "loss": 2.0}}))
    truth = Truth(record)
    accuracy = early.scores_at(record, truth, 10, "accuracy").mean(0)
    predicted = regression.predict(truth, accuracy)
    # 11 standardized values of one feature, slope shrunk by the penalty 1
    assert predicted[0] == pytest.approx(_shrunk(np.array([0.0] * 5 + [1.0] * 6), 0.0), abs=1e-9)
    assert np.isnan(predicted[12:]).all()
    changed = accuracy.copy()
    changed[0] = 0.9
    assert regression.predict(truth, changed)[0] == predicted[0]
    rows = regression.table(record, truth)
    assert [row["predictor"] for row in rows] == ["regression on trainings of 10 steps"]
    assert rows[0][f"tau, {EQUAL}"].value > 0.5 and rows[0][f"as a feature, {EQUAL}"] == ""


def test_the_regression_learns_the_weight_of_a_score(record):
    """The accuracy falls with the score, and does not depend on the genes."""
    accuracies = np.array([0.5 + (7 * i % 12) / 100 for i in range(12)] + [0.4] * 4)
    for name, accuracy in zip(EQUALS + SPREADS, accuracies.tolist(), strict=True):
        for seed in (0, 1):
            early_accuracy = {"accuracy": accuracy - 0.2, "loss": 1.0}
            record.add(net(name, seed, accuracy, curve={"10": early_accuracy, "100": early_accuracy}))
    record.add(supernet("default", 0, {"accuracy": 1 - accuracies}))
    genes, added, *_ = regression.table(record, Truth(record))
    assert added["predictor"] == "10 steps, with default" and genes[f"tau, {EQUAL}"].value < 0.5
    assert added[f"tau, {EQUAL}"].value < 0 and added[f"as a feature, {EQUAL}"].value > 0.9


def _shrunk(patch_n: np.ndarray, at: float) -> float:
    z_n, y_n = (patch_n - patch_n.mean()) / patch_n.std(), 0.3 + 0.1 * patch_n
    slope = z_n @ (y_n - y_n.mean()) / (len(z_n) + regression.RIDGE)
    return y_n.mean() + slope * (at - patch_n.mean()) / patch_n.std()


def test_rules_by_hand(tmp_path):
    """The deepest subnets are the best; the others do not differ."""
    record = Record(tmp_path / "record.jsonl")
    for i, name in enumerate(EQUALS):
        for seed in (0, 1):
            record.add(net(name, seed, 0.5 + i / 100, depth=1 + i % 6, training_seconds=100.0 - i))
    found = {row["rule"]: row for row in alone.rules(Truth(record))}
    assert found["more layers"][f"tau, {WITHIN}"].value == 1
    assert found["larger patches, then more layers"][f"tau, {EQUAL}"].value == 1
    assert found["more time for a training step"][f"tau, {EQUAL}"].value == -1
    assert found["more MACs"][f"tau, {EQUAL}"].value == 0  # all equal
    assert found["larger patches"][f"tau, {EQUAL}"].value == pytest.approx(36 / (66 * 36) ** 0.5)  # ties, tau-b


def test_the_variance_that_a_gene_explains_by_hand(tmp_path):
    record = Record(tmp_path / "record.jsonl")
    for i, name in enumerate(EQUALS):
        record.add(net(name, 0, 0.5 + 0.1 * (i >= 6), depth=1 + i % 2))
    rows = alone.by_gene(Truth(record))
    patch = [row for row in rows if row["gene"] == "patch size"]
    assert [(row["choice"], row["subnets"], row["mean accuracy, %"]) for row in patch] == [
        ("4", 6, "50.00"), ("8", 6, "60.00"),
    ]  # fmt: skip
    assert [row["explained variance"] for row in patch] == ["100%", ""]
    assert next(row["explained variance"] for row in rows if row["gene"] == "layers") == "0%"
    values, few = np.array([1.0, 3, 5, 7]), [np.array([1.0, 3]), np.array([5.0, 7])]
    assert alone._explained(values, few) == f"{1 - (4 / 2) / (20 / 3):.0%}"
    assert alone._explained(values, [values[i : i + 1] for i in range(4)]) == ""


def test_a_continuous_gene_is_binned_into_thirds():
    labels, names = alone.binned(np.array([1.5, 1, 2.25, 3, 4, 3.5]))
    assert labels.tolist() == [0, 0, 1, 1, 2, 2] and len(names) == 3


def test_an_equal_gain_keeps_the_order(record):
    add_longer(record, lambda i, seed: 0.55 + i / 100)
    of = longer.read(record, Truth(record))
    assert of.names == EQUALS[::2] and of.gain_n == pytest.approx(0.05)
    assert of.tau(0 * of.patch_n, "difference").value == pytest.approx(0)
    text = longer.report(record, Truth(record))
    assert "Nothing contradicts it" in text and "gain +5.00 % on average" in text
    assert "standard deviation of 0.00; the noise of the seeds alone gives 0.40." in text.replace("\n", " ")


def test_another_order_after_twice_the_steps_is_found(record):
    add_longer(record, lambda i, seed: 0.9 - i / 100)
    of = longer.read(record, Truth(record))
    found = [of.tau(0 * of.patch_n, kind).value for kind in ("normal", "longer", "difference")]
    assert found == pytest.approx([1, -1, -2])
    assert "It is **not** met" in longer.report(record, Truth(record))


def test_only_trainings_of_different_seeds_are_compared(record):
    """By hand: a longer training that repeats the order of its own seed, which is the opposite of the other seed's."""
    for i in range(12):
        record.add(net(EQUALS[i], 1, 0.9 - i / 100))
    add_longer(record, lambda i, seed: 0.5 + i / 100 if seed == 0 else 0.9 - i / 100)
    of = longer.read(record, Truth(record))
    assert [of.tau(0 * of.patch_n, kind).value for kind in ("normal", "longer")] == pytest.approx([-1, -1])
    assert of.tau(of.patch_n, "longer").value == pytest.approx(-1)


def test_one_seed_of_the_longer_trainings_is_enough(record):
    assert "Not measured yet" in longer.report(record, Truth(record))
    add_longer(record, lambda i, seed: 0.55 + i / 100, seeds=(0,))
    of = longer.read(record, Truth(record))
    assert list(of.longer) == [0] and of.tau(0 * of.patch_n, "longer").value == pytest.approx(1)
    expected = 100 * (0.004**2 * 2 * (1 / 2 + 1)) ** 0.5  # of two normal trainings and one longer
    assert f"seeds alone gives {expected:.2f}" in longer.report(record, Truth(record)).replace("\n", " ")
