"""The document and the command of the report of tests/benchmarks/fidelity.

References: a synthetic record, the results of the digits that an earlier version of the code computed, and the
committed results of the other studies.
"""

import re

import pytest

from tests.benchmarks.fidelity import __main__ as command
from tests.benchmarks.fidelity import alone, document, ranking
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.truth import ALL, EQUAL, Truth
from tests.helpers.fidelity_records import MEAN, add_longer, shuffled, supernet
from tests.helpers.paths import ROOT

DIGITS = ROOT / "docs" / "fidelity"


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
    recipe = f"tests/benchmarks/fidelity/{folder.name}.yaml"
    assert (folder / "results.md").read_text() == document.text(Record(folder / "record.jsonl"), recipe)
