"""The format of measured latencies: written lines are read again, everything else is an error."""

import json

import pytest

from tests.helpers.searches import SMALL
from vitas_ds.arch import genome
from vitas_ds.errors import UserError
from vitas_ds.search.latency.lines import Latency, Line, describe_setting, format_line, parse_line, read_lines

SETTING = {"device": "phone", "runtime": "onnxruntime", "batch_size": 1, "precision": "fp32", "threads": 4}
LINE = Line(genome.decode(SMALL, genome.largest(SMALL)).canonical(), Latency(0.012345678901234567, 1e-4, 30), SETTING)


def test_a_line_is_read_as_written():
    assert parse_line(format_line(LINE)) == LINE
    short = Line(LINE.spec, Latency(0.5), SETTING)
    assert parse_line(format_line(short)) == short and "spread" not in format_line(short)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds": None}, "float"),
        ({"seconds": -1}, "seconds must be above 0"),
        ({"seconds": 0}, "seconds must be above 0"),
        ({"setting": {"device": "phone"}}, "setting has no runtime"),
        ({"setting": 3}, "not iterable"),
        ({"spec": {}}, "image_size"),
        ({"spec": None}, "spec"),
    ],
)
def test_an_invalid_line_is_an_error(change, message):
    row = json.loads(format_line(LINE)) | change
    with pytest.raises(UserError, match=message) as error:
        parse_line(json.dumps(row))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["spec", "seconds", "setting"])
def test_a_missing_key_is_named(key):
    row = json.loads(format_line(LINE))
    del row[key]
    with pytest.raises(UserError, match=f"no {key}"):
        parse_line(json.dumps(row))
    with pytest.raises(UserError):
        parse_line("[1, 2]")
    with pytest.raises(UserError):
        parse_line(b"\xff{")


def test_reading_skips_invalid_lines(tmp_path):
    path = tmp_path / "lines.jsonl"
    assert list(read_lines(path)) == []
    path.write_text(f'{format_line(LINE)}\n{{"spec": {{\n{format_line(LINE)}\n')
    assert list(read_lines(path)) == [LINE, LINE]


def test_descriptions():
    assert describe_setting(SETTING) == "phone, onnxruntime, fp32, 4 threads, batch size 1"
    assert describe_setting(SETTING | {"threads": 1}) == "phone, onnxruntime, fp32, 1 thread, batch size 1"
    assert describe_setting(SETTING | {"threads": None}) == "phone, onnxruntime, fp32, batch size 1"
    assert LINE.latency.describe() == "12.35 ms (spread 0.1 ms)" and Latency(2.0).describe() == "2000 ms"
