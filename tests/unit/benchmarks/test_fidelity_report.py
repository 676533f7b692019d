"""The report of tests/benchmarks/fidelity.

References: synthetic records whose tau is known, scipy's tau, counts by hand, and the results of the digits that an
earlier version of the code computed.
"""

import re

import numpy as np
import pytest
from scipy.stats import kendalltau

from tests.benchmarks.fidelity import __main__ as command
from tests.benchmarks.fidelity import alone, document, early, longer, picks, ranking, regression, scores
from tests.benchmarks.fidelity.record import KEYS, Record
from tests.benchmarks.fidelity.truth import ALL, EQUAL, WITHIN, Truth
from tests.helpers.paths import ROOT
from vitas_ds.errors import UserError

DIGITS = ROOT / "docs" / "fidelity"
EQUALS = [f"equal {i:02}" for i in range(12)]
SPREADS = [f"spread {i:02}" for i in range(4)]
STAMP = dict.fromkeys(KEYS, "") | {"machine": "a CPU", "git": "abc", "torch": "2", "seconds": 7.0}


def spec_of(name: str, depth: int = 2) -> dict:
    """Return a network: patch 4 for the first six of equal MACs and all spread ones, else 8."""
    layer = {"num_heads": 2, "qkv_dim": 96, "mlp_dim": 64}
    patch = 8 if name.startswith("equal") and int(name[-2:]) >= 6 else 4
    return {"image_size": 32, "patch_size": patch, "embed_dim": 32, "num_classes": 10, "layers": [layer] * depth}


def net(name: str, seed: int, accuracy: float, kind: str = "net", depth: int = 2, **more) -> dict:
    job = f"{name}{', twice as long' if kind == 'longer' else ''}, seed {seed}"
    return STAMP | {
        "job": job, "kind": kind, "what": spec_of(name, depth), "seed": seed, "macs": 4_000_000, "steps": 100,
        "accuracy": accuracy, "loss": 2 - accuracy, "training_seconds": 5.0, "digest": "d1",
    } | more  # fmt: skip


def supernet(name: str, seed: int, ways: dict[str, np.ndarray], **more) -> dict:
    found = {way: dict(zip(EQUALS + SPREADS, row.tolist(), strict=False)) for way, row in ways.items()}
    row = {"job": f"{name}, seed {seed}", "kind": "supernet", "what": name, "seed": seed, "scores": found}
    return STAMP | row | {"training_macs": 1e12, "training_seconds": 3600.0} | more


@pytest.fixture
def record(tmp_path):
    """Two seeds of 16 subnets. The mean accuracy of "equal NN" is 0.5 + NN / 100; each seed deviates by 0.004."""
    record = Record(tmp_path / "record.jsonl")
    signs = np.random.default_rng(0).choice([-1, 1], len(EQUALS))
    for i, name in enumerate(EQUALS):
        for seed in (0, 1):
            record.add(net(name, seed, 0.5 + i / 100 + 0.004 * signs[i] * (1 - 2 * seed)))
    for i, name in enumerate(SPREADS):
        for seed in (0, 1):
            record.add(net(name, seed, 0.4 + i / 10, macs=1_000_000 * (i + 1)))
    return record


MEAN = np.arange(16.0)  # the order of the truth; spread subnets are at other places


def shuffled(seed: int, distance: float = 4.0) -> np.ndarray:
    return MEAN + np.random.default_rng(seed).normal(size=16) * distance


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


def add_longer(record: Record, accuracy, seeds=(0, 1)) -> None:
    """Add twice the steps for every second subnet of equal MACs: ``accuracy(i, seed)``."""
    for i in range(0, 12, 2):
        for seed in seeds:
            record.add(net(EQUALS[i], seed, accuracy(i, seed), "longer", steps=200))


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


def test_the_document_grows_with_the_record(record, tmp_path):
    text = document.text(record, "cifar10")
    assert "## Supernets" not in text and "nan" not in text and text.count("| equal 0") == 10
    add_longer(record, lambda i, seed: 0.55 + i / 100)
    for name in ("default", "ordinal"):
        record.add(supernet(name, 0, {"accuracy": shuffled(1), "half": MEAN[:12]}))
    paths = document.write(record, "cifar10", tmp_path / "docs")
    assert all(path.stat().st_size > 1000 for path in paths)
    assert sorted(path.name for path in paths[1:]) == ["agreement.png", "genes.png", "scatter.png", "seeds.png"]
    text = paths[0].read_text()
    assert "nan" not in text and all(f"]({path.name})" in text for path in paths[1:])
    assert "| a CPU | abc | 2 | d1 | 44 | 308 |\n| a CPU | abc | 2 |  | 2 | 14 |" in text  # rows of 7 s


def test_the_document_of_one_seed_shows_no_seeds(record):
    record.rows = {job: row for job, row in record.rows.items() if row["seed"] == 0}
    text = document.text(record, "cifar10")
    assert "seeds.png" not in text and "ceiling" not in text and "nan" not in text


def test_the_command_writes_the_report_without_images(record, tmp_path, monkeypatch, capsys):
    base = ["fidelity", "cifar10", "report", "data.train=nowhere", "--record", str(record.path)]
    monkeypatch.setattr("sys.argv", [*base, "--docs", str(tmp_path / "docs")])
    command.main()
    names = ["results.md", "genes.png", "agreement.png"]
    assert capsys.readouterr().out.splitlines()[:1] == [f"wrote {tmp_path}/docs/results.md"]
    assert all((tmp_path / "docs" / name).exists() for name in names)
    for args, message in (
        (base, "--docs: missing"),
        ([*base, "--docs", str(record.path)], str(record.path)),
        ([*base[:3], "--docs", str(tmp_path), "--record", str(tmp_path / "none")], "run the part truth first"),
    ):
        monkeypatch.setattr("sys.argv", args)
        with pytest.raises(SystemExit) as end:
            command.main()
        error = capsys.readouterr().err
        assert end.value.code == 2 and error.count("\n") == 1 and message in error, error


def columns(title: str, first: str, wanted: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return the cells of a table of the digits' results, by the first cell of a row."""
    part = (DIGITS / "results.md").read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in part.splitlines() if line[:1] == "|"]
    at = [lines[0].index(name) for name in wanted]
    assert lines[0][0] == first
    return {re.sub(r" \*$", "", line[0]): tuple(line[i] for i in at) for line in lines[2:]}


def test_results_of_the_digits_are_those_of_the_earlier_code():
    record = Record(DIGITS / "record.jsonl")
    truth = Truth(record)
    expected = columns("Supernets", "supernet", ("accuracy", "tau, equal"))
    found = {
        row["supernet"].removesuffix(" *"): (row["accuracy inside, %"], str(row[f"tau, {EQUAL}"]))
        for row in ranking.table(record, truth)
    }
    assert found.keys() == expected.keys() and len(found) == 17
    for name, (accuracy, tau) in expected.items():
        assert found[name][1] == tau and float(found[name][0]) == pytest.approx(100 * float(accuracy), abs=0.051)
    rules = {row["rule"]: row for row in alone.rules(truth)}
    for ours, theirs in (("more layers", "more layers"), ("larger patches", "the larger patch"), ("more MACs",) * 2):
        old = columns("Rules without a supernet", "rule", ("tau, equal",))[theirs][0]
        assert str(rules[ours][f"tau, {EQUAL}"]) == old
    old = columns("Subnets trained alone", "truth", ("tau, all", "tau, equal"))
    oracle = next(cells for name, cells in old.items() if name.startswith("a perfect oracle"))
    assert [f"{truth.ceiling(group).value:.2f}" for group in (ALL, EQUAL)] == [cell[:4] for cell in oracle]


FOLDERS = [path.parent for path in sorted((ROOT / "docs").glob("*/record.jsonl")) if path.parent != DIGITS]


@pytest.mark.parametrize("folder", FOLDERS, ids=[folder.name for folder in FOLDERS])
def test_committed_results_equal_those_of_their_record(folder):
    """The folder of a study is named after its recipe."""
    assert (folder / "results.md").read_text() == document.text(Record(folder / "record.jsonl"), folder.name)


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
    assert rows[0][f"tau, {EQUAL}"].value > 0.5


def _shrunk(patch_n: np.ndarray, at: float) -> float:
    z_n, y_n = (patch_n - patch_n.mean()) / patch_n.std(), 0.3 + 0.1 * patch_n
    slope = z_n @ (y_n - y_n.mean()) / (len(z_n) + regression.RIDGE)
    return y_n.mean() + slope * (at - patch_n.mean()) / patch_n.std()
