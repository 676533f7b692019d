"""The examples run as written, and the public interface is complete, typed and documented.

References: the cost of the published DeiT-S by timm's parameter count, and Python's own reading of the files.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import runpy
import sys
from pathlib import Path

import pytest

import vitas_ds
from tests.helpers.paths import ROOT

EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


def output_of(script: Path, monkeypatch, *args: str) -> str:
    monkeypatch.setattr(sys, "argv", [str(script), *args])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path(str(script), run_name="__main__")
    return printed.getvalue()


def test_scripts_are_short():
    assert [script.name for script in SCRIPTS] == ["cost.py", "custom_objective.py", "train_loop.py"]
    assert all(len(script.read_text().splitlines()) <= 40 for script in SCRIPTS)


def test_the_cost_of_deit_small(monkeypatch):
    """timm's deit_small_patch16_224 has 22,050,664 parameters."""
    printed = output_of(EXAMPLES / "cost.py", monkeypatch)
    assert "12 layers, patch size 16, embed_dim 384" in printed and "22.05 M parameters" in printed


def test_a_search_with_a_custom_objective(monkeypatch):
    printed = output_of(EXAMPLES / "custom_objective.py", monkeypatch)
    macs = int(printed.split(" with ")[1].split(" MACs")[0].replace(",", ""))
    assert 600_000 <= macs <= 1_200_000


def test_the_training_loop_learns(monkeypatch, tmp_path):
    """Also with the ``best.json`` of a search."""
    small = vitas_ds.SubnetSpec(28, 7, 48, 10, (vitas_ds.LayerSpec(2, 96, 96),) * 2)
    (tmp_path / "best.json").write_text(json.dumps({"spec": small.to_dict()}))
    for args in ((), (str(tmp_path / "best.json"),)):
        printed = output_of(EXAMPLES / "train_loop.py", monkeypatch, *args)
        losses = [float(line.split()[-1]) for line in printed.splitlines()]
        assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook(path):
    """Run its code cells in order, in one namespace, as Jupyter does. It has no stored output."""
    cells = json.loads(path.read_text())["cells"]
    namespace = {"__name__": "__main__"}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            exec(compile("".join(cell["source"]), f"{path.name}:{cell['id']}", "exec"), namespace)


def test_the_public_interface_is_documented():
    page = (ROOT / "docs" / "api.md").read_text()
    assert (ROOT / "vitas_ds" / "py.typed").is_file()
    for name in vitas_ds.__all__:
        assert inspect.getdoc(getattr(vitas_ds, name)), name
        assert f"`{name}" in page, name
    assert set(vitas_ds.__all__) <= set(dir(vitas_ds))


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vitas_ds.nothing  # noqa: B018
