"""Statistics, break-even point and document of tests/benchmarks/elastic.

References: scipy's t-test, Holm's procedure and costs computed by hand, and synthetic records.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.benchmarks.elastic import __main__ as command
from tests.benchmarks.elastic import break_even, document, jobs, paired, working
from tests.benchmarks.elastic.jobs import ALONE, METHODS, Job
from tests.benchmarks.elastic.study import FULL, QUICK, Study
from tests.benchmarks.fidelity.pool import pool
from tests.benchmarks.fidelity.record import Record
from tests.helpers.paths import ROOT
from vitas_ds.errors import UserError

PILOT = ROOT / "docs" / "elastic" / "pilot"
BUDGETS = ("20M", "30M", "40M")
COST = {"elastic": 13, "uniform": 29, ALONE: 49}  # of a network; elastic training costs 30, importance 1, scores 6
STAMP = {"machine": "a CPU", "git": "abc", "torch": "2", "seconds": 7.0}


def search(seed: int) -> dict:
    compute = {"importance": 1, "training": 30, "scores": dict.fromkeys(BUDGETS, 6)}
    return STAMP | {"job": f"elastic, search, seed {seed}", "kind": "search", "what": "elastic", "seed": seed,
                    "compute": compute}  # fmt: skip


def network(method: str, seed: int, budget: str, top1: float) -> dict:
    before = None if METHODS[method].weights == "scratch" else top1 - 0.1
    return STAMP | {
        "job": f"{method}, {budget}, seed {seed}", "kind": "network", "what": method, "seed": seed, "budget": budget,
        "macs": 20_000_000, "epochs": 6, "before": before, "top1": top1, "own": COST.get(method, 29), "shared": 1,
        "limit": 50 if method == ALONE else 88,
    }  # fmt: skip


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Three seeds: elastic is 2 points better than uniform pruning and 1 point better than uniform pruning alone."""
    record = Record(tmp_path / "record.jsonl")
    for seed in range(3):
        record.add(search(seed))
        for i, budget in enumerate(BUDGETS):
            for method in METHODS:
                gap = {"elastic": 0.0, ALONE: 0.01, "random": 0.002 * (seed - 1)}.get(method, 0.02 + 0.001 * seed)
                record.add(network(method, seed, budget, 0.7 + 0.02 * i - gap))
    return record


def test_differences_are_those_of_scipy(record):
    rows = record.of("network")
    ours, other = (paired.accuracies(rows, name, "top1") for name in ("elastic", "uniform"))
    values = paired.per_seed(ours, other, BUDGETS)
    assert values == pytest.approx([2.0, 2.1, 2.2])
    error, p = paired.t_test(values)
    expected = stats.ttest_1samp(values, 0)
    assert p == pytest.approx(expected.pvalue)
    found = paired.compare({"uniform": values})["uniform"]
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert error == pytest.approx(0.1 / math.sqrt(3)) and found.verdict == "better"


def test_holm_by_hand():
    """Three tests with p-values a < b < c: adjusted 3a, max(3a, 2b), max of that and c."""
    found = {"b": np.array([1.0, 1.3, 1.6]), "a": np.array([1.0, 1.1, 1.2]), "c": np.array([-1.0, 0.5, 1.0])}
    p = {name: stats.ttest_1samp(values, 0).pvalue for name, values in found.items()}
    result = paired.compare(found)
    assert list(result) == ["b", "a", "c"]
    assert result["a"].p == pytest.approx(3 * p["a"]) and result["b"].p == pytest.approx(2 * p["b"])
    assert result["c"].p == pytest.approx(p["c"])
    assert [result[name].verdict for name in "abc"] == ["better", "better", "tie"]
    interval = stats.ttest_1samp(found["a"], 0).confidence_interval(1 - 0.05 / 3)
    assert (result["a"].low, result["a"].high) == pytest.approx((interval.low, interval.high))
    for one in result.values():
        assert (one.low > 0 or one.high < 0) == (one.p < 0.05)


def test_after_a_tie_all_weaker_differences_are_ties():
    """Alone, the second test would be significant; with Holm, the first one has to be."""
    wide = {"a": np.array([1.0, 1.9, 2.2]), "b": np.array([1.0, 1.9, 2.3])}
    assert all(stats.ttest_1samp(values, 0).pvalue < 0.05 for values in wide.values())
    result = paired.compare(wide | {"c": np.array([0.0, 1.0, -1.0])})
    assert {one.verdict for one in result.values()} == {"tie"} and all(one.low < 0 for one in result.values())


def test_incomplete_seeds_are_left_out():
    ours = {(seed, budget): 1.0 for seed in range(3) for budget in BUDGETS}
    other = {cell: 0.0 for cell in ours if cell != (1, "30M")}
    assert paired.per_seed(ours, other, BUDGETS).tolist() == [1.0, 1.0]
    alone = paired.compare({"x": np.array([1.0]), "none": np.array([])})
    assert [*alone] == ["x"] and (str(alone["x"]), alone["x"].adjusted) == ("+1.00", "")  # one seed has no spread
    assert alone["x"].verdict == "not tested"
    equal = paired.compare({"x": np.array([1.0, 1.0])})["x"]
    assert (equal.low, equal.high, equal.verdict) == (1.0, 1.0, "better")


def test_break_even_by_hand(record):
    """31 + 19 N = 1 + 29 N at N = 3, and elastic is better than pruning alone, 31 + 19 = 1 + 49."""
    found = break_even.compute([*record.rows.values()])
    assert found.by_cost == pytest.approx(3) and found.elastic.at(2) == 31 + 2 * 19
    assert found.direct.at(2) == 31 + 2 * 6 and found.alone.at(1) == 50
    assert found.by_accuracy == dict.fromkeys(BUDGETS, 1.0)
    for row in record.of("network"):
        if row["what"] == ALONE:
            row["top1"] += 0.02  # better than elastic by 1 point; with the epochs of the comparison 2.1 points worse
    each = 29 ** (1 / 3.1) * 49 ** (2.1 / 3.1)
    found = break_even.compute([*record.rows.values()])
    assert found.by_accuracy["30M"] == pytest.approx(30 / (each - 19))
    for row in record.of("network"):
        if row["what"] == "uniform":
            row["top1"] += 0.05
    assert break_even.compute([*record.rows.values()]).by_accuracy["30M"] == math.inf
    assert break_even.compute([search(0)]) is None


def test_the_document_has_table_figure_and_ties(record, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    page = docs / "elastic.md"
    with pytest.raises(UserError, match=r"elastic\.md: the lines .* are missing"):
        document.write(record, docs)
    page.write_text(f"# Title\n\n{document.BEGIN}\nold\n{document.END}\n\n## Next\n")
    paths = document.write(record, docs)
    assert [path.name for path in paths] == ["elastic.md", "results.md", "break_even.png"]
    text, results = page.read_text(), paths[1].read_text()
    assert text.startswith("# Title") and text.endswith("## Next\n") and "old" not in text and "nan" not in text
    assert "| ii | uniform | 57.9 -> 67.9 | 59.9 -> 69.9 | 61.9 -> 71.9 | 6 |" in text
    assert "| v | random | " in text and "| tie |" in text and "30M: 1.0; 40M: 1.0." in text
    assert "Ties at single budgets: 20M: random; 30M: random; 40M: random." in text
    assert "| 20M | +1.00 [+1.00, +1.00] | 0.000 | better |" in text
    assert results.count("| iv | sibling | ") == 4 and results.count("| ii | uniform | ") == 8  # and before
    document.write(record, docs)
    assert page.read_text() == text


def test_an_incomplete_record_has_a_document_too(tmp_path):
    record = Record(tmp_path / "record.jsonl")
    (tmp_path / "elastic.md").write_text(f"{document.BEGIN}\n{document.END}\n")
    with pytest.raises(UserError, match="no network is done yet"):
        document.write(record, tmp_path)
    record.add(network("elastic", 0, "20M", 0.7))
    assert len(document.write(record, tmp_path)) == 2


def test_one_seed_has_differences_without_a_test(record, tmp_path):
    record.rows = {job: row for job, row in record.rows.items() if row["seed"] == 0}
    (tmp_path / "elastic.md").write_text(f"{document.BEGIN}\n{document.END}\n")
    text = document.write(record, tmp_path)[0].read_text()
    assert "One seed, in %" in text and "| 6 | +2.00 | not tested |" in text
    assert "| 20M | +1.00 |  | not tested |" in text
    assert "Ties at" not in text and "nan" not in text and "30M: 1.0; 40M: 1.0." in text


def test_jobs_whose_files_are_gone_run_again_if_they_are_needed(record, tmp_path):
    """The searches of seed 1 are complete, those of seed 0 are not needed, one of seed 2 lacks a pruned network."""
    study = Study(tmp_path, "elastic_cifar10", (), FULL)
    record.add(search(0) | {"job": "start", "kind": "start", "what": "start"})
    assert jobs.lost(study, record) == []
    for seed in (1, 2):
        del record.rows[f"sibling, 20M, seed {seed}"]
        record.add(search(seed) | {"job": f"unsorted, search, seed {seed}", "what": "unsorted"})
        for name in ("elastic", "unsorted"):
            best = jobs.search_run(study, name, seed).best
            best.parent.mkdir(parents=True)
            best.touch()
        for name in jobs.PRUNED:
            for budget in study.budgets:
                jobs.pruned_folder(study, name, budget, seed).mkdir(parents=True)
    assert jobs.lost(study, record) == ["start"]
    study.run("start").path.mkdir()
    study.run("start").summary.touch()
    jobs.pruned_folder(study, "greedy", "30M", 2).rmdir()
    jobs.search_run(study, "unsorted", 1).best.unlink()
    assert jobs.lost(study, record) == ["unsorted, search, seed 1", "elastic, search, seed 2"]


def test_committed_results_of_the_pilot_equal_those_of_its_record(tmp_path):
    (tmp_path / "elastic.md").write_text(f"{document.BEGIN}\n{document.END}\n")
    document.write(Record(PILOT / "record.jsonl"), tmp_path)
    assert (tmp_path / "elastic" / "results.md").read_text() == (PILOT / "results.md").read_text()


def test_finished_jobs_do_not_run_again(tmp_path):
    record = Record(tmp_path / "record.jsonl")
    todo = [Job(f"sibling, {budget}, seed 0", "network", "sibling", 0, 1.0, budget) for budget in BUDGETS]
    for budget in BUDGETS:
        record.add(network("sibling", 0, budget, 0.5))
    study = Study(tmp_path, "elastic_cifar10", (), QUICK)
    with pool(1) as processes:
        assert list(working.do(todo, study, record, processes, 1, {})) == []
        assert not processes._processes


def test_user_errors_are_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    record = Record(tmp_path / "other.jsonl")
    record.add(network("elastic", 0, "20M", 0.7) | {"digest": "others"})
    out = ["--out", str(tmp_path / "out")]
    data = [f"data.train={tmp_path}/no", f"data.val={tmp_path}/no"]
    for args, message in (
        (["start", "--workers", "0"], "--workers 0"),
        (["start", *data, *out], "no: no such folder of images"),
        (["start", "search.budget=3", *out], "search.budget: unknown key"),
        (["start", *out, "--record", str(record.path)], "elastic, 20M, seed 0 has other settings"),
        (["compare", *out], "no such folder of images"),
        (["report", *out], "--docs: missing"),
    ):
        monkeypatch.setattr("sys.argv", ["elastic", "--quick", *args])
        with pytest.raises(SystemExit) as end:
            command.main()
        error = capsys.readouterr().err
        assert end.value.code == 2 and error.count("\n") == 1 and message in error, (args, error)


def test_names_of_jobs_are_names_of_runs():
    job = Job("scratch with teacher, 20M, seed 0", "network", "scratch with teacher", 0, 1.0)
    assert (
        job.slug == "scratch-with-teacher-20M-seed-0" and jobs.search_name("unsorted", 1) == "unsorted, search, seed 1"
    )
