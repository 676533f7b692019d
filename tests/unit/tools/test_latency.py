"""``vitas latency`` writes a table for a search; a second start measures only missing networks."""

import json

import pytest

from tests.helpers.paths import FIXTURES
from vitas_ds.__main__ import main
from vitas_ds.arch.space import WidthTable
from vitas_ds.arch.spec import LayerSpec, SubnetSpec, spec_from_dict
from vitas_ds.recipe import load
from vitas_ds.search.feasible.budget import COSTS
from vitas_ds.search.latency.lines import REQUIRED, Latency, Line, check_lines, format_line
from vitas_ds.search.latency.table import read_table

TINY = str(FIXTURES / "tiny.yaml")
OPTIONS = ["run.device=cpu", "search.latency_runtime=torch", "search.latency_batch_size=2"]


def measure(path, nets: int, *more: str) -> int:
    return main(["latency", TINY, *OPTIONS, "--out", str(path), "--nets", str(nets), *more])


def test_a_table_is_measured_once_and_fits_the_recipe(tmp_path, capsys):
    path = tmp_path / "table.jsonl"
    assert measure(path, 12) == 0
    first = path.read_text()
    assert "12 networks" in capsys.readouterr().out and first.count("\n") == 12
    path.write_text(first[: len(first) // 2])  # killed
    assert measure(path, 12) == 0
    rows = [json.loads(line) for line in first.splitlines()]
    macs = COSTS["macs"](WidthTable.from_specs([spec_from_dict(row["spec"]) for row in rows]))
    assert macs.min() >= 1.5e5 and macs.max() <= 4e5
    path.write_text(first)
    config = load(TINY, [*OPTIONS, f"search.latency_table={path}", "search.latency=[0, 1]"])
    table = read_table(config.search, config.space, {})
    assert [line.spec.to_dict() for line in table.lines] == [row["spec"] for row in rows]
    assert {"device", "runtime", "batch_size", "precision", "versions"} <= set(table.setting)


@pytest.mark.parametrize("text", ['{"stage": "search", "step": 1}\n', "{\n}\n", "notes\n", "[1]\n", "\0\0\n"])
def test_a_file_of_others_is_refused(tmp_path, capsys, text):
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    assert measure(path, 12) == 2 and path.read_text() == text
    assert ": not a measured latency (" in "".join(capsys.readouterr())


def test_a_table_with_incomplete_lines_is_accepted(tmp_path):
    spec = LayerSpec(1, 4, 4)
    line = format_line(Line(SubnetSpec(16, 8, 4, 2, (spec,)), Latency(0.5), dict.fromkeys(REQUIRED, 1)))
    for end in ("", "\n", f"\n{line}\n", f"\n{line[:3]}"):
        for cut in (0, 1, 5, 40, len(line)):
            (tmp_path / "table").write_text(line[:cut] + end)
            check_lines(tmp_path / "table")
    check_lines(tmp_path / "none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nets", "5"], "--nets 5: must be 12 or more"),
        (["--nets", "12", "search.latency_runtime=cuda-graph"], "cuda-graph needs a GPU"),
        (["--nets", "12", "search.latency_runtime=onnxruntime", "search.latency_precision=bf16"], "computes in fp32"),
    ],
)
def test_what_is_refused(tmp_path, capsys, arguments, message):
    assert main(["latency", TINY, "run.device=cpu", "--out", str(tmp_path / "t.jsonl"), *arguments]) == 2
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert message in text and text.count("\n") == 1
    assert main(["latency", TINY, "--out", str(tmp_path)]) == 2
    assert "is a folder; give a file" in "".join(capsys.readouterr())
