"""The report on the supernet and its scores. Reference: the files of the run."""

import json
import re

import numpy as np
import pytest

from tests.helpers.runs import correct, search
from tests.unit.reports.test_run_page import Page
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import LayerSpec, SubnetSpec, spec_from_dict
from vitas_ds.reports import comparison, guidance_section, run_page
from vitas_ds.reports.svg import short
from vitas_ds.run.files import write_json
from vitas_ds.run.metrics import read_metrics
from vitas_ds.run.summary import update_summary
from vitas_ds.search.scoring.candidate import Score
from vitas_ds.search.separation import warning
from vitas_ds.search.separation_result import Separation
from vitas_ds.search.trials import check, correction
from vitas_ds.search.trials.store import Outcome

NETS = {name: SubnetSpec(28, 7, 48, 10, (LayerSpec(2, 96, 96),) * depth)
        for name, depth in (("smallest", 1), ("largest", 4), ("random1", 2), ("random2", 3))}  # fmt: skip
FOUND = Separation(200, 500, 0.0201, 0.0123, 0.015, 5, 0.31, 14, 2000)


@pytest.fixture
def guided(run):
    """A finished run with evaluations of the supernet, a check and a judgment of the scores."""
    with run.metrics.open("a") as file:
        for step in (300, 600):
            values = {f"accuracy/{name}": 0.1 * i + step / 1000 for i, name in enumerate(NETS)}
            row = {"stage": "train-supernet", "step": step, "time": 0, "evaluation": True, **values}
            file.write(json.dumps(row) + "\n")
    specs = {name: spec.to_dict() for name, spec in NETS.items()}
    write_json(run.supernet_subnets, {"images": 400, "every": 300, "subnets": specs})
    scores = [Score(0.5 + 0.1 * i, 0.02, 400) for i in range(4)]
    outcomes = [Outcome(90, 0.6 + 0.05 * i, 0.02, 1.0, 3.0) for i in (0, 1, 3, 2)]
    write_json(run.check, check.compare(list(NETS.values()), scores, outcomes) | {"settings": {}})
    update_summary(run, "search", {"separation": FOUND.to_dict() | {"warning": warning(FOUND, False)}})
    return run


def test_curves_check_and_warning_are_on_the_page(guided):
    page = Page(run_page.render(guided))
    assert page.open == []
    charts = [a["aria-label"] for tag, a in page.elements if tag == "svg" and a["class"] == "chart"]
    assert len(charts) == 6 + 1 + 3 + 1 + 6
    assert "Accuracy of subnets on 400 search images" in charts
    assert "Check of the supernet: accuracy after 90 steps alone" in charts
    assert f"largest, {short(spec_macs(NETS['largest']))} MACs" in page.text
    assert page.text.count("random, within the budget") == 1
    tips = [a["data-tip"] for tag, a in page.elements if tag == "circle"]
    macs = short(spec_macs(NETS["random2"]))
    assert f"random2, {macs} MACs: 90.0% at step 600" in tips
    assert sum(tip.startswith("accuracy ") for tip in tips) == 4 and any(
        "accuracy 75.0%, score 70.0%" in t for t in tips
    )
    assert re.search(r"Kendall's tau 0\.67 \[[-\d.]+, 1\.00\] between", page.text)
    assert "The scores do not separate the best candidates: the best of " in page.text
    assert "In detail: a score has a standard error of 2.01%" in page.text


def test_a_run_without_guidance_shows_nothing(run):
    assert [guidance_section.accuracy_chart(run, read_metrics(run)), *guidance_section.check_charts(run)] == ["", ""]
    assert guidance_section.notes(run) == []


def test_scores_that_separate_are_said_to(guided):
    sure = FOUND.to_dict() | {"probability": 0.9, "warning": None}
    update_summary(guided, "search", {"separation": sure})
    assert guidance_section.notes(guided)[1].startswith("The scores separate the best candidates: a score has")


def test_corrected_scores_have_a_chart_of_their_own(run):
    """Each network has the score by a correction fitted to the nine others. All charts say which scores they show."""
    correct(run)
    rows = json.loads(run.check.read_text())["nets"]
    specs = [spec_from_dict(row["spec"]) for row in rows]
    scores, accuracies = (np.array([row[name] for row in rows]) for name in ("score", "accuracy"))
    chart = guidance_section.check_charts(run)[1]
    for i in range(10):
        others = [k for k in range(10) if k != i]
        fitted = correction.fit([specs[k] for k in others], scores[others], accuracies[others])
        expected = fitted([specs[i]], scores[[i]])[0]
        assert f"accuracy {accuracies[i]:.1%}, score {expected:.1%}, " in chart
    text = run_page.render(run)
    charts = {a["aria-label"]: a for tag, a in Page(text).elements if tag == "svg" and a["class"] == "chart"}
    assert "Check of corrected scores: accuracy after 90 steps alone" in charts
    assert text.count(">corrected score: predicted accuracy, trained alone<") == 2  # candidates, progress
    assert "score on the search images<" not in text


def test_a_comparison_says_that_one_run_has_corrected_scores(run, config):
    renamed = {"run": config.run.model_copy(update={"name": "other"})}
    other, _ = search(config.model_copy(update=renamed))
    assert "in a part of the runs" not in comparison.render(run, other)
    correct(run)
    assert comparison.render(run, other).count(">score, corrected in a part of the runs<") == 2
    correct(other)
    assert comparison.render(run, other).count(">corrected score: predicted accuracy, trained alone<") == 2
