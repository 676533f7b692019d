"""The comparison of whole searches, on synthetic records whose differences are known."""

import numpy as np
import pytest

from tests.benchmarks.fidelity import comparison, document, plots
from tests.benchmarks.fidelity.jobs import pick_name
from tests.benchmarks.fidelity.record import Record, pack, unpack
from tests.benchmarks.fidelity.truth import Truth
from tests.helpers.fidelity_records import STAMP

IMAGES, BUDGET = 1000, [3.88e6, 4.12e6]


def spec_of(mlp: int) -> dict:
    layer = {"num_heads": 2, "qkv_dim": 96, "mlp_dim": mlp}
    return {"image_size": 32, "patch_size": 4, "embed_dim": 32, "num_classes": 10, "layers": [layer]}


def search(method: str, seed: int, result: dict) -> dict:
    what = {"method": method, "macs": BUDGET}
    return STAMP | {"job": f"{method} {seed}", "kind": "search", "what": what, "seed": seed, "result": result}


def pick(mlp: int, seed: int, share: float, first: int = 0) -> dict:
    """Return a training that classifies a share of the images correctly, from image ``first`` on."""
    correct = np.roll(np.arange(IMAGES) < share * IMAGES, first)
    row = {"job": f"pick {pick_name(spec_of(mlp))}, seed {seed}", "kind": "net", "what": spec_of(mlp), "seed": seed}
    return STAMP | row | {"correct": pack(correct), "steps": 100, "macs": 4e6, "accuracy": share, "loss": 1.0}


@pytest.fixture
def record(tmp_path):
    """Three seeds: evolution ends with 60 %, random search 50 %, the rule 59 to 61 %; by hand has no randomness."""
    record = Record(tmp_path / "record.jsonl")
    for seed in range(3):
        of = {
            name: {
                "pick": spec_of(mlp),
                "scoring_units": 0.5,
                "finalists": {"pick": spec_of(mlp), "units": 4.0, "curves": []},
            }
            for name, mlp in (("ga", 10 + seed), ("random", 20 + seed))
        }
        record.add(search("supernet", seed, {"supernet_units": 2.0, "fitting_units": 3.0} | of))
        record.add(search("scores", seed, {"supernet_units": 2.0, "ga": of["random"]}))
        record.add(search("rules", seed, {"DSS": {"pick": spec_of(30 + seed)}}))
        for mlp, share in ((10, 0.6), (20, 0.5), (30, 0.59 + seed / 100)):
            for training in range(2):
                record.add(pick(mlp + seed, training, share))
    record.add(search("by hand", 0, {"patch 4": {"pick": spec_of(40)}}))
    record.add(search("random halving", 0, {"32": {"pick": spec_of(50), "units": 10.0}}))  # not trained yet
    for training in range(2):
        record.add(pick(40, training, 0.55))
    return record


def test_bits_survive():
    bits = np.random.default_rng(0).random(1003) < 0.3
    assert (unpack(pack(bits)) == bits).all()


def test_methods_have_their_cost_and_accuracy(record):
    found = comparison.methods(record, tuple(BUDGET))
    assert list(found) == [
        "supernet, evolution, finalists", "supernet, evolution", "supernet, random search, finalists",
        "supernet, random search", "by hand: patch 4", "rules: DSS", "supernet, scores alone, finalists",
        "supernet, scores alone",
    ]  # fmt: skip
    assert [method.letter for method in found.values()] == [
        "a",
        "b",
        "c",
        "c, no finalists",
        "e",
        "g",
        "i",
        "i, no finalists",
    ]
    assert [method.units for method in found.values()] == [9.5, 5.5, 9.5, 5.5, 0, 0, 6.5, 2.5]
    assert found[comparison.OURS].accuracies == pytest.approx([0.6] * 3)
    assert found["rules: DSS"].accuracies == pytest.approx([0.59, 0.6, 0.61])


def test_claims_follow_from_the_intervals(record):
    claims = {row["a against"]: row for row in comparison.claims(comparison.methods(record, tuple(BUDGET)))}
    better = claims["c: supernet, random search, finalists"]
    assert better["a is"] == "better" and better["difference"].startswith("10.00")
    assert claims["b: supernet, evolution"]["difference"] == "0.00 [0.00, 0.00]"
    assert claims["g: rules: DSS"]["a is"] == "open"
    assert claims["e: by hand: patch 4"]["difference"].startswith("5.00")


def test_the_interval_covers_images_and_seeds(record):
    """Of 1,000 images, 100 decide: the standard error of the difference is 0.1 sqrt(9 / 1,000)."""
    found = comparison.methods(record, tuple(BUDGET))
    gap = comparison.difference(found[comparison.OURS], found["supernet, random search"])
    assert (gap.high - gap.low) / (2 * 1.96) == pytest.approx(100 * np.sqrt(0.1 * 0.9 / IMAGES), rel=0.1)
    # images are paired: two networks with equal errors differ by nothing, whatever images are drawn
    same = comparison.difference(found["supernet, evolution"], found[comparison.OURS])
    assert (same.low, same.high) == (0, 0)


def test_the_report_has_the_comparison(record, tmp_path):
    text = "\n".join(document._searches(record))
    assert "## Whole searches within 3.88M to 4.12M MACs" in text and "comparison.png" in text
    assert "| d |" not in text
    assert plots._comparison(record, tmp_path / "comparison.png")
    assert not plots._comparison(Record(tmp_path / "empty.jsonl"), tmp_path / "none.png")


def test_picks_are_no_part_of_the_truth(record):
    for i in range(3):
        row = {"job": f"equal {i:02}, seed 0", "kind": "net", "what": spec_of(64), "seed": 0, "macs": 4e6, "steps": 100}
        record.add(STAMP | row | {"accuracy": 0.5 + i / 10, "loss": 1.0})
    assert Truth(record).names == ["equal 00", "equal 01", "equal 02"]
