"""The W&B dashboard shows the metrics of the stages.

References: the sources that log the metrics, and the classes of wandb-workspaces where it is installed.
"""

import importlib.util
import json
import re
import sys

import pytest

from tests.helpers.paths import ROOT

_found = importlib.util.spec_from_file_location("wandb_dashboard", ROOT / "launch" / "wandb_dashboard.py")
dashboard = importlib.util.module_from_spec(_found)
_found.loader.exec_module(dashboard)


def test_every_metric_is_logged_by_a_stage():
    """A renamed metric fails here: the names are searched in the sources that log them."""
    files = ("training/trainer", "run/tracking", "stages/train_supernet", "stages/evaluate", "search/monitor")
    text = "\n".join((ROOT / "vitas_ds" / f"{name}.py").read_text() for name in files)
    metrics = [name for panels in dashboard.SECTIONS.values() for _, names in panels for name in names]
    pictures = [name for names in dashboard.PICTURES.values() for name in names]
    assert [name for name in metrics if f'"{name.partition("/")[2]}"' not in text] == []
    assert len(set(metrics)) == len(metrics) and set(dashboard.PICTURES) <= set(dashboard.SECTIONS)
    figures = (ROOT / "vitas_ds" / "search" / "plots.py").read_text()
    assert all(f'"{name.partition("/")[2]}"' in figures + text for name in pictures)


def test_wandb_workspaces_accepts_the_view():
    pytest.importorskip("wandb_workspaces", exc_type=ImportError)
    view = dashboard.workspace("me", "vitas_ds", "ViTAS")._to_model()
    sections = json.loads(view.spec.model_dump_json(by_alias=True))["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections if section["panels"]] == list(dashboard.SECTIONS)
    lines = [
        panel for section in sections for panel in section["panels"] if panel["viewType"] == "Run History Line Plot"
    ]
    assert len(lines) == sum(len(panels) for panels in dashboard.SECTIONS.values())
    expected = [list(names) for panels in dashboard.SECTIONS.values() for _, names in panels]
    assert [panel["config"]["metrics"] for panel in lines] == expected
    axes = [f"{names[0].split('/')[0]}/step" for names in expected]
    assert [panel["config"]["xAxis"] for panel in lines] == axes


def test_command_line(capsys, monkeypatch):
    assert dashboard.main(["--dry-run"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == list(dashboard.SECTIONS)
    assert dashboard.main([]) == 2
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert dashboard.main(["--entity", "me"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "--entity" in lines[0] and re.search(r"pip install wandb-workspaces", lines[1])
