"""The finalists in the report, the comparison and the upload. Reference: the lines of the file."""

from __future__ import annotations

import json
import os
import re

import pytest
import wandb

from tests.helpers.runs import search
from tests.helpers.wandb_files import history
from vitas_ds.config import Finalists
from vitas_ds.reports import comparison, finalists_section, run_page, wandb_upload
from vitas_ds.run.files import append_line, write_json
from vitas_ds.run.summary import update_summary


def line(candidate: int, rung: int, step: int, accuracy: float, goes_on: bool = False, wins: bool = False) -> dict:
    row = {"candidate": candidate, "rung": rung, "step": step, "accuracy": accuracy, "stderr": 0.01, "loss": 1.5}
    row |= {"seconds": 5.0, "skipped": 0, "side": None, "score": 0.6, "macs": 1_000_000 + candidate}
    return row | {"goes_on": goes_on, "wins": wins}


ROWS = [
    line(2, 1, 10, 0.5, goes_on=True), line(1, 1, 10, 0.4, goes_on=True), line(3, 1, 10, 0.3),
    line(1, 2, 20, 0.7, wins=True), line(2, 2, 20, 0.6),
]  # fmt: skip
NUMBERS = {"candidates": 3, "rungs": 2, "macs": 2.5e12, "retrainings": 0.25, "seconds": 65, "accuracy": 0.7}


@pytest.fixture
def trained(config):
    """A run whose search has trained three finalists."""
    finalists = config.search.finalists.model_copy(update={"count": 3, "steps": 20})
    config = config.model_copy(update={"search": config.search.model_copy(update={"finalists": finalists})})
    run, _ = search(config)
    for row in ROWS:
        append_line(run.finalists, json.dumps(row))
    best = json.loads(run.best.read_text())
    entry = {"finalist": {"accuracy": 0.7, "stderr": 0.01, "steps": 20}}
    write_json(run.best, best | entry | {"top": [best["top"][0] | entry]})
    update_summary(run, "search", {"finalists": NUMBERS, "best": {"score": 0.6, "macs": 1_000_001, **entry}})
    return config, run


def test_table_and_curves(trained):
    config, run = trained
    found = finalists_section.section(run, config)
    assert found["header"] == ("candidate", "step 10", "step 20", "search score", "MACs")
    assert [row[:3] for row in found["rows"]] == [
        ("1. of the search", "40.00% ± 1.00%", "70.00% ± 1.00%"),
        ("2. of the search", "50.00% ± 1.00%", "60.00% ± 1.00%"),
        ("3. of the search", "30.00% ± 1.00%", ""),
    ]
    text = found["charts"][0]
    assert text.count("<polyline") == 3 and text.count(", dropped out") == 2
    assert text.count("<circle") == len(ROWS) + 2
    assert re.findall(r'<i class="key c\d"></i>([^<]*)', text) == ["best finalist", "dropped out"]
    assert found["cost"] == "3 candidates in 2 rungs: 2.5e+12 MACs, 0.25 times one retraining, 1:05 in total."


def test_page_and_comparison(trained):
    _, run = trained
    text = run_page.render(run)
    assert "<h2>Finalists</h2>" in text and "accuracy 70.0% after 20 steps" in text
    assert "0.25 times one retraining" in text
    rows = {row[0]: row[1:] for row in comparison.results((run, run))}
    assert rows["accuracy of the best finalist"] == ("70.00%", "70.00%")


def test_unfinished_finalists_are_shown_without_a_cost(trained):
    config, run = trained
    write_json(run.summary, {})
    run.finalists.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS[:3]))
    found = finalists_section.section(run, config)
    assert found["cost"] == "" and len(found["rows"]) == 3 and "best so far" in found["charts"][0]


def test_a_search_without_finalists_has_no_section(trained):
    """Also if an earlier start of the run had some."""
    config, run = trained
    off = config.model_copy(update={"search": config.search.model_copy(update={"finalists": Finalists()})})
    assert finalists_section.section(run, off)["rows"] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("error:W&B")
def test_upload_has_the_table(trained, monkeypatch, capsys):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    config, run = trained
    online = config.model_copy(update={"tracking": config.tracking.model_copy(update={"wandb": "offline"})})
    wandb_upload.send(online, run)
    wandb.teardown()  # completes the files
    (folder,) = (run.path / "wandb").glob("offline-run-*")
    assert "search/finalists" in {key.split(".")[0] for row in history(folder) for key in row}
