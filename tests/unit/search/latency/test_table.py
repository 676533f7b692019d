"""A user's latency table: lines that fit a recipe, and refused ones.

Reference: tables written here.
"""

import hashlib

import numpy as np
import pytest

from tests.helpers.searches import BUDGET, PREDICTOR, SMALL
from vitas_ds.arch import genome
from vitas_ds.arch.space import SearchSpace, WidthTable
from vitas_ds.config import Search
from vitas_ds.errors import UserError
from vitas_ds.search.feasible.budget import COSTS
from vitas_ds.search.latency.lines import Latency, Line, format_line
from vitas_ds.search.latency.table import check_versions, read_table

PHONE = {
    "device": "phone", "runtime": "coreml", "batch_size": 1, "precision": "fp16", "versions": {"coreml": "7.2"},
}  # fmt: skip


def specs_of(space: SearchSpace, count: int):
    return [
        spec.canonical()
        for spec in genome.decode_all(space, genome.sample(space, np.random.default_rng(1), count, 0.3))
    ]


def write(path, settings, space=SMALL, count=30):
    specs = specs_of(space, count)
    seconds = PREDICTOR(WidthTable.from_specs(specs)).tolist()
    lines = [Line(spec, Latency(s), setting) for setting in settings for spec, s in zip(specs, seconds, strict=True)]
    path.write_text("".join(format_line(line) + "\n" for line in lines))
    return lines


def read(path, budget=None, **fields):
    return read_table(Search(**{"latency_table": str(path), "latency_batch_size": 1} | fields), SMALL, budget or {})


def test_the_lines_of_one_setting_are_read(tmp_path):
    path = tmp_path / "table.jsonl"
    lines = write(path, [PHONE, PHONE | {"batch_size": 8}, PHONE | {"device": "tablet"}])
    table = read(path, latency_device="phone")
    assert table.setting == PHONE and table.path == path
    assert table.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {line.spec.key() for line in table.lines} == {line.spec.key() for line in lines[:30]}
    eight = read(path, latency_device="phone", latency_batch_size=8)
    assert eight.setting["batch_size"] == 8


def test_only_networks_within_the_budget_count(tmp_path):
    path = tmp_path / "table.jsonl"
    write(path, [PHONE], count=300)
    table = read(path, {"macs": BUDGET})
    costs = COSTS["macs"](WidthTable.from_specs([line.spec for line in table.lines]))
    assert 12 <= len(table.lines) < 200 and costs.min() >= BUDGET[0] and costs.max() <= BUDGET[1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latency_device": "A100"}, r"no latencies with device 'A100' \(search\.latency_device\); .* \"phone\""),
        ({"latency_runtime": "onnxruntime"}, r"no latencies with runtime 'onnxruntime' .*; the table has \"coreml\""),
        ({"latency_batch_size": 4}, r"no latencies with batch_size 4 \(search\.latency_batch_size\); the table has 1$"),
        ({"latency_precision": "bf16"}, r"no latencies with precision 'bf16' .*; the table has \"fp16\""),
        ({"latency_table": "/no/such/file"}, r"search\.latency_table: /no/such/file: No such file .* vitas latency"),
    ],
)
def test_a_table_of_another_setting_is_an_error(tmp_path, fields, message):
    path = tmp_path / "table.jsonl"
    write(path, [PHONE])
    with pytest.raises(UserError, match=message) as error:
        read(path, **fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("other", "fix"),
    [
        ({"device": "tablet"}, r'differ in device: "phone", "tablet"; set search\.latency_device'),
        ({"precision": "fp32"}, r'differ in precision: "fp16", "fp32"; set search\.latency_precision'),
        ({"versions": {"coreml": "8"}}, r'differ in versions: .*"8".*; keep the lines of one setting'),
    ],
)
def test_several_settings_are_an_error(tmp_path, other, fix):
    path = tmp_path / "table.jsonl"
    write(path, [PHONE, PHONE | other])
    with pytest.raises(UserError, match=f"several settings fit the recipe, which {fix}") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_networks_of_another_space_do_not_count(tmp_path):
    path = tmp_path / "table.jsonl"
    write(path, [PHONE], SearchSpace())
    with pytest.raises(
        UserError, match=r"0 of its 30 networks are in the space and the budget .* at least 12; measure"
    ):
        read(path)
    write(path, [PHONE], count=5)
    with pytest.raises(UserError, match="5 of its 5 networks"):
        read(path)
    path.write_text("")
    with pytest.raises(UserError, match="no latencies; vitas latency RECIPE --out"):
        read(path)


def test_an_invalid_line_is_an_error_except_an_incomplete_last_one(tmp_path):
    path = tmp_path / "table.jsonl"
    write(path, [PHONE])
    good = path.read_text()
    path.write_text(good + '{"spec": {"ima')
    assert len(read(path).lines) == 30
    path.write_text("{}\n" + good)
    with pytest.raises(UserError, match="line 1: not a measured latency"):
        read(path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"versions": "2.15"}, r"setting.versions: must be an object of names and versions \(given: '2.15'\)"),
        ({"device": ["phone"]}, "setting.device: must be text"),
        ({"precision": 32}, "setting.precision: must be text"),
        ({"batch_size": "1"}, "setting.batch_size: must be a whole number"),
        ({"batch_size": True}, "setting.batch_size: must be a whole number"),
    ],
)
def test_a_setting_of_another_kind_is_one_line(tmp_path, wrong, message):
    path = tmp_path / "table.jsonl"
    write(path, [PHONE | wrong])
    with pytest.raises(UserError, match=f"table.jsonl: line 1: not a measured latency .{message}") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_versions_are_compared_on_the_same_device_only(tmp_path):
    path = tmp_path / "table.jsonl"
    write(path, [PHONE | {"versions": {"torch": "2.0", "other": "1"}}])
    table = read(path)
    check_versions(table, {"a server"}, {"torch": "2.9"})
    check_versions(table, {"phone"}, {"torch": "2.0", "other": None})
    with pytest.raises(UserError, match=r"on this device with torch 2\.0, but 2\.9 is installed; measure again"):
        check_versions(table, {"phone"}, {"torch": "2.9"})
