"""The table of corrected scores, on a synthetic record. References: an accuracy that follows from the genes."""

import numpy as np
import pytest

from tests.benchmarks.fidelity import corrections, document, method_plot
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.truth import Truth
from tests.helpers.fidelity_records import net, supernet
from tests.helpers.paths import ROOT

DEPTHS = np.arange(1, 7)
HIDDEN = np.random.default_rng(0).uniform(0, 1, 12)  # what the genes do not say


@pytest.fixture
def deep(tmp_path):
    """Twelve subnets whose accuracy depends on depth and more, after a quarter of the steps as at the end."""
    record = Record(tmp_path / "deep.jsonl")
    for i in range(12):
        accuracy = 0.5 + 0.02 * np.log2(DEPTHS[i % 6]) + 0.02 * HIDDEN[i]
        for seed in (0, 1):
            row = net(f"equal {i:02}", seed, accuracy, depth=int(DEPTHS[i % 6]))
            steps = row["steps"]
            curve = {str(round(share * steps)): {"accuracy": accuracy, "loss": 1.0} for share in (1 / 4, 1)}
            record.add(row | {"curve": curve})
    return record


def test_scores_add_what_the_genes_do_not_say(deep):
    for name, scores in (("equal", np.full(12, 0.4)), ("hidden", HIDDEN)):
        deep.add(supernet(name, 0, {"accuracy": scores}))
    alone, equal, hidden = corrections.table(deep, Truth(deep))
    assert [row["supernet"] for row in (alone, equal, hidden)] == ["none", "equal", "hidden"]
    assert alone | {"supernet": ""} == equal | {"supernet": ""} and list(alone) == ["supernet", "8 subnets"]
    assert 0.4 < float(alone["8 subnets"]) < 0.9 < float(hidden["8 subnets"])
    assert "## Corrected scores\n" in document.text(deep, "cifar10")


def test_no_table_without_enough_subnets_or_short_trainings(deep, record):
    deep.rows = {name: row for name, row in deep.rows.items() if not name.startswith(("equal 11", "equal 10"))}
    assert corrections.table(deep, Truth(deep)) == []
    assert corrections.table(record, Truth(record)) == []


def test_the_figure_of_what_to_set(deep, tmp_path):
    """Lengths are those of the same supernet only."""
    assert not method_plot.write(deep, Truth(deep), tmp_path / "method.png")
    for name in ("nested, a quarter as long", "nested", "nested, lr 1e-3"):
        deep.add(supernet(name, 0, {"accuracy": HIDDEN}))
    assert method_plot.lengths(deep) == {1.25: "nested, a quarter as long", 5: "nested"}


@pytest.mark.slow
def test_the_figure_of_a_whole_study(tmp_path):
    record = Record(ROOT / "docs" / "cifar10" / "record.jsonl")
    assert method_plot.write(record, Truth(record), tmp_path / "method.png")
    assert (tmp_path / "method.png").stat().st_size > 10_000
