"""The table of budgets in a report, and the budget in a model card. Reference: rows written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitas_ds.config import Config, Search
from vitas_ds.reports.search_section import budgets
from vitas_ds.run.files import write_json, write_text
from vitas_ds.run.run_dir import RunDir
from vitas_ds.search.selector import Source
from vitas_ds.stages.export import _budget


def test_a_row_has_search_training_and_run(tmp_path: Path) -> None:
    run, trained = RunDir(tmp_path / "a"), RunDir(tmp_path / "a-budget1")
    assert budgets(run) == []
    first = {"macs": 2_000_000, "params": 30_000, "score": 0.5}
    second = first | {"finalist": {"accuracy": 0.625}}
    write_json(run.best, first | {"budgets": [
        {"budget": "macs<=2M", "top": [first]}, {"budget": "macs<=3M", "top": [second]},
    ]})  # fmt: skip
    write_text(trained.config, "")
    write_json(trained.summary, {"evaluate": {"top1": 0.75}})
    assert budgets(run) == [
        ("macs<=2M", "2M", "30k", "50.00%", "", "", ""),
        ("macs<=3M", "2M", "30k", "50.00%", "62.50%", "75.00%", "a-budget1"),
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("search:budget[1]", "2,700,000,000 to 3,000,000,000 MACs, 0 to 10,000,000 parameters"),
        ("search:best", "macs<=2G or macs<=3G"),
    ],
)
def test_the_card_names_the_budget(choice: str, expected: str) -> None:
    search = Search.model_validate({"budgets": ["2G", "3G"], "params": (0, 1e7)})
    assert _budget(Config(search=search), Source("", choice)) == expected
