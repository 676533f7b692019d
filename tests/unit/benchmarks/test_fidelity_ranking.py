"""Ranking subnets with supernets, in the report of tests/benchmarks/fidelity.

References: synthetic records whose tau is known, scipy's tau, and counts by hand.
"""

import numpy as np
import pytest
from scipy.stats import kendalltau

from tests.benchmarks.fidelity import picks, ranking, scores
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.truth import ALL, EQUAL, WITHIN, Truth
from tests.helpers.fidelity_records import EQUALS, MEAN, SPREADS, net, shuffled, supernet
from vitas_ds.errors import UserError


def within_by_hand(row: np.ndarray) -> float:
    """Return tau over the pairs of equal MACs with one patch size, from counts of scipy's pairs: 15 for each patch."""
    return float(np.mean([kendalltau(row[part], MEAN[part]).statistic for part in (slice(0, 6), slice(6, 12))]))


def test_the_truth_is_the_mean_of_the_seeds(record):
    truth = Truth(record)
    assert truth.names == EQUALS + SPREADS and truth.seeds == [0, 1]
    assert truth.mean_n[:12] == pytest.approx(0.5 + np.arange(12) / 100)
    assert truth.noise(EQUAL) == pytest.approx(0.004 * 2**0.5)
    assert truth.patch_n[:12].tolist() == [4] * 6 + [8] * 6
    assert [len(truth.at(group)) for group in (EQUAL, WITHIN, ALL)] == [12, 12, 16]
    assert truth.step_n.tolist() == [0.05] * 16
    first, second = truth.values_Rn[:, :12]
    assert truth.seed_tau(EQUAL).value == pytest.approx(kendalltau(first, second).statistic)


def test_seed_tau_is_the_mean_over_all_pairs_of_seeds(record):
    for i, name in enumerate(EQUALS + SPREADS):
        record.add(net(name, 2, float(shuffled(9)[i])))
    values = Truth(record).values_Rn[:, :12]
    taus = [kendalltau(values[a], values[b]).statistic for a, b in ((0, 1), (0, 2), (1, 2))]
    assert Truth(record).seed_tau(EQUAL).value == pytest.approx(np.mean(taus))


def test_a_seed_counts_once_half_of_the_subnets_have_it(record):
    for i in range(7):
        record.add(net(EQUALS[i], 2, 0.9))
    assert Truth(record).seeds == [0, 1] and len(Truth(record).names) == 16
    record.add(net(EQUALS[7], 2, 0.9))
    assert Truth(record).seeds == [0, 1, 2] and Truth(record).names == EQUALS[:8]


def test_subnets_of_several_studies_are_refused(record, tmp_path):
    record.add(net("equal 03", 2, 0.5, depth=3))
    with pytest.raises(UserError, match="equal 03 is not the same subnet in all rows"):
        Truth(record)
    record.add(net("equal 03", 2, 0.5, steps=99))
    with pytest.raises(UserError, match="different numbers of steps"):
        Truth(record)
    with pytest.raises(UserError, match="run the part truth first"):
        Truth(Record(tmp_path / "empty.jsonl"))


def test_a_lower_loss_is_better(record):
    record.add(net("spread 00", 0, 0.1, loss=-9.0))
    record.add(net("spread 00", 1, 0.1, loss=-9.0))
    assert Truth(record, "loss").mean_n.argmax() == 12 and Truth(record).mean_n.argmin() == 12


def test_tau_share_and_differences_of_supernets_equal_scipys(record):
    rows = {"default": [shuffled(1), shuffled(2)], "ordinal": [shuffled(3, 9.0), shuffled(4, 9.0)],
            "ordinal, longer": [MEAN, shuffled(5, 1.0)], "alone": [-MEAN]}  # fmt: skip
    for name, seeds in rows.items():
        for seed, row in enumerate(seeds):
            record.add(supernet(name, seed, {"accuracy": row}, training_macs=1e12 * (1 + seed)))
    truth = Truth(record)
    found = {row["supernet"]: row for row in ranking.table(record, truth)}
    assert list(found) == ["ordinal, longer", "default", "ordinal", "alone *"]
    base = {"ordinal, longer": "ordinal", "default": "", "ordinal": "default", "alone *": "default"}
    assert {name: row["base"] for name, row in found.items()} == base
    for name, row in found.items():
        ours = rows[name.removesuffix(" *")]
        for group, of in ((EQUAL, lambda row: kendalltau(row[:12], MEAN[:12]).statistic), (WITHIN, within_by_hand)):
            taus = np.array([of(scores) for scores in ours])
            assert row[f"tau, {group}"].value == pytest.approx(taus.mean())
            share = row[f"of the ceiling, {group}"].value * truth.ceiling(group).value
            assert share == pytest.approx(taus.mean())
            if base[name]:
                less = [of(scores) for scores, _ in zip(rows[base[name]], ours, strict=False)]
                assert row[f"difference, {group}"].value == pytest.approx(np.mean(taus - less))
        each = [f"{kendalltau(scores[:12], MEAN[:12]).statistic:.2f}" for scores in ours]
        assert row["tau of each seed"] == ", ".join(each)
    assert found["ordinal"]["training MACs"] == "1.50e+12" and found["ordinal"]["core hours"] == "1.00"
    assert found["ordinal, longer"][f"difference, {EQUAL}"].low > 0  # by far better, on the same subnets


def test_each_supernet_is_compared_with_the_one_it_changes(record):
    expected = {"default": None, "budget": "default", "ordinal": "budget", "ordinal, private norms": "ordinal",
                "ordinal, private norms, longer": "ordinal, private norms", "cyclic, lr": "budget"}  # fmt: skip
    for name in expected:
        record.add(supernet(name, 0, {"accuracy": MEAN}))
    assert {name: scores.base_of(record, name) for name in expected} == expected
    others = Record(record.path.with_name("others.jsonl"))
    for name in ("a", "b"):
        others.add(supernet(name, 0, {"accuracy": MEAN}))
    assert [scores.base_of(others, name) for name in ("a", "b")] == [None, "a"]


def test_ways_of_scoring_are_compared_on_the_same_supernets(record):
    """A way that only one supernet has is compared with the accuracy of that supernet."""
    for seed in (0, 1):
        ways = {"minus loss": MEAN} if seed else {}
        record.add(supernet("default", seed, {"accuracy": shuffled(seed)} | ways))
        record.add(supernet("ordinal", seed, {"accuracy": shuffled(7 + seed), "half": shuffled(8)[:12]}))
    truth = Truth(record)
    found = {row["score"]: row for row in ranking.by_way(record, truth)}
    assert [(way, row["supernets"]) for way, row in found.items()] == [("accuracy", 4), ("half", 2), ("minus loss", 1)]
    expected = 1 - kendalltau(shuffled(1)[:12], MEAN[:12]).statistic
    assert found["minus loss"][f"less accuracy's, {EQUAL}"].value == pytest.approx(expected)
    assert found["accuracy"][f"less accuracy's, {EQUAL}"] == ""
    rows = ranking.by_way_of(record, truth, ["ordinal", "default", "ordinal"])
    assert [(row["supernet"], row["score"]) for row in rows] == [
        ("ordinal", "accuracy"), ("ordinal", "half"), ("default", "accuracy"), ("default", "minus loss"),
    ]  # fmt: skip


def test_the_mean_of_checkpoints_by_hand(record):
    """Of the last three: 0.75, 0.9 and the end. The adapted scores have none."""
    marks = {"0.5": 100 * MEAN, "0.75": shuffled(1), "0.9": shuffled(2)}
    ways = {f"accuracy, at {mark}": row[:12] for mark, row in marks.items()} | {"accuracy": shuffled(3), "loss": MEAN}
    record.add(supernet("ordinal", 0, ways))
    mean = "accuracy, mean of 3 checkpoints"
    assert scores.ways(record)[:3] == ["accuracy", "loss", mean] and len(scores.ways(record)) == 6
    found = scores.scores_of(record, Truth(record), "ordinal", mean)[0]
    assert found[:12] == pytest.approx((shuffled(1) + shuffled(2) + shuffled(3))[:12] / 3)
    assert np.isnan(found[12:]).all()
    rows = ranking.by_way_of(record, Truth(record), ["ordinal"])
    assert [row["score"] for row in rows] == ["accuracy", "loss", mean]


def test_scores_after_a_short_training_are_ways_of_their_supernet(record):
    record.add(supernet("ordinal", 0, {"accuracy": shuffled(1)}))
    adapted = supernet("ordinal", 0, {"after 50 steps": MEAN[:12]}) | {"job": "ordinal, adapted", "kind": "adapted"}
    record.add(adapted)
    rows = ranking.by_way_of(record, Truth(record), ["ordinal"])
    assert [row["score"] for row in rows] == ["accuracy", "after 50 steps"]
    expected = 1 - kendalltau(shuffled(1)[:12], MEAN[:12]).statistic
    assert rows[1][f"less accuracy's, {EQUAL}"].value == pytest.approx(expected)
    assert len(ranking.table(record, Truth(record))) == 1


def test_a_favored_gene_is_found_by_hand(record):
    """The scores repeat the order of the truth, but prefer patch 8 by far."""
    record.add(supernet("fair", 0, {"accuracy": MEAN}))
    record.add(supernet("unfair", 0, {"accuracy": MEAN + 1000 * (MEAN >= 6)}))
    rows = {
        (row["gene"], row["choice"]): row for row in ranking.bias(record, Truth(record), ["fair", "unfair", "fair"])
    }
    truth = (np.arange(6).mean() - 5.5) / np.arange(12).std()
    assert rows["patch size", "4"]["fair"] == "+0.00 +- 0.00"
    assert float(rows["patch size", "4"]["unfair"].split()[0]) == pytest.approx(-1 - truth, abs=0.01)
    assert float(rows["patch size", "8"]["unfair"].split()[0]) == pytest.approx(1 + truth, abs=0.01)
    assert rows["layers", "2"]["unfair"].startswith("+0.00") and rows["layers", "2"]["subnets"] == 12


def test_scores_of_some_subnets_only_leave_cells_empty(record):
    record.add(supernet("default", 0, {"accuracy": MEAN[:12]}))
    (row,) = ranking.table(record, Truth(record))
    assert row[f"tau, {ALL}"] == "" and row[f"tau, {EQUAL}"].value == 1
    pick = {row["pick"]: row for row in picks.table(record, Truth(record))}["default"]
    assert pick[f"of 1, {EQUAL}"] == "0.00" and pick[f"of 1, {ALL}"] == ""
    assert scores.main_way(record) == "accuracy"
