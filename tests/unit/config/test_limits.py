"""Limits of ``search.budgets``. Reference: values written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from vitas_ds.config import Config, dump
from vitas_ds.config.limits import Limit, parse_limit
from vitas_ds.config.parse import parse_config
from vitas_ds.errors import UserError
from vitas_ds.recipe import load
from vitas_ds.search.feasible.budget import from_config
from vitas_ds.search.feasible.several import feasible_sets


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2.4G", Limit("macs", 2.16e9, 2.4e9, "macs<=2.4G")),
        (2.4e9, Limit("macs", 2.16e9, 2.4e9, "macs<=2.4G")),
        ("macs <= 15M", Limit("macs", 13.5e6, 15e6, "macs<=15M")),
        ([2.2e9, "2.4G"], Limit("macs", 2.2e9, 2.4e9, "2.2G<=macs<=2.4G")),
        ("0<=params<=500K", Limit("params", 0, 5e5, "0<=params<=500K")),
        ("2T", Limit("macs", 1.8e12, 2e12, "macs<=2T")),
        ("latency<=500u", Limit("latency", 0.00045, 0.0005, "latency<=0.5m")),
        ("latency<=5m", Limit("latency", 0.0045, 0.005, "latency<=5m")),
    ],
)
def test_forms(written: Any, expected: Limit) -> None:
    found = parse_limit(written)
    assert (found.cost, found.text) == (expected.cost, expected.text)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert parse_limit(found.text) == found


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("macs=[300k, 600K]", (300_000, 600_000)),
        ("macs=[1.1M, 2.4G]", (1_100_000, 2_400_000_000)),
        ("params=[2e4, 0.03M]", (20_000, 30_000)),
        ("vitas_flops=[1G, 2T]", (1e9, 2e12)),
        ("activations=[0, '5 M']", (0, 5e6)),
        ("latency=[500u, 5m]", (0.0005, 0.005)),
        ("throughput=[1.5k, 2000]", (1500, 2000)),
    ],
)
def test_ranges_take_units(setting: str, expected: tuple[float, float]) -> None:
    config = load("quickstart", [f"search.{setting}"])
    assert getattr(config.search, setting.partition("=")[0]) == expected
    assert Config.model_validate(parse_config(dump(config), "config.yaml")) == config
    assert load("quickstart", ["supernet.macs=[0.5M, 600k]"]).supernet.macs == (500_000, 600_000)


@pytest.mark.parametrize("wrong", ["[x, 2M]", "[1.2.3M, 2M]", "[-3k, 3k]", "[1, 2X]", "['', 1]", "[2M, 300k]", "2M"])
def test_wrong_ranges_are_one_line(wrong: str) -> None:
    with pytest.raises(UserError, match=r"search.*macs") as error:
        load("quickstart", [f"search.macs={wrong}"])
    assert "\n" not in str(error.value)


def test_below_excludes_the_limit_itself() -> None:
    search = load("quickstart", ["search.budgets=[macs<1M, macs<=1M]"]).search
    assert [from_config(one)["macs"][1] for one in search.each_budget()] == [999_999, 1_000_000]


@pytest.mark.parametrize(
    "wrong",
    ["2.4", "[", "x", "[x]", "[2X]", "[0]", "[-1]", "[true]", "[2G<=3G]", "[[3, 2]]", "[1, 1.0]", "[.]", "[flops<2G]"],
)
def test_wrong_budgets_are_one_line(wrong: str) -> None:
    with pytest.raises(UserError, match=r"search\.budgets") as error:
        load("quickstart", [f"search.budgets={wrong}"])
    assert "\n" not in str(error.value)


def test_budgets_survive_the_file_of_a_run() -> None:
    config = load("quickstart", ["search.budgets=[0.9M, [1M, 1.2M], params<30K]"])
    assert Config.model_validate(parse_config(dump(config), "config.yaml")) == config


def test_the_covering_range() -> None:
    search = load("quickstart", ["search.budgets=[1M, [0.2M, 0.5M]]"]).search
    assert search.covering().budget == {"macs": (0.2e6, 1e6)}
    mixed = load("quickstart", ["search.macs=null", "search.budgets=[1M, params<30K]"]).search
    assert mixed.covering().budget == {}


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("9M", r"macs<=9M: above the largest network .* between 270,176 and 6,715,584 macs"),
        ("9K", r"macs<=9K: below the smallest network .* between 270,176 and 6,715,584 macs"),
        ("[2.0000001M, 2.0000002M]", r"2\.0000001M<=macs<=2\.0000002M: no network .* the closest has macs 1,99"),
    ],
)
def test_budgets_without_networks_name_both_ends(budget: str, message: str) -> None:
    config = load("quickstart", [f"search.budgets=[1M, {budget}]"])
    with pytest.raises(UserError, match=rf"^search\.budgets: {message}") as error:
        feasible_sets(config.space, config.search)
    assert "\n" not in str(error.value)
