"""Checks of a configuration before a stage starts.

Reference: configurations with one error each.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.helpers.paths import FIXTURES
from vitas_ds.config import Config
from vitas_ds.data.sources import read_folder
from vitas_ds.errors import UserError
from vitas_ds.recipe import load
from vitas_ds.stages import validate

TINY = FIXTURES / "tiny.yaml"


def recipe(*overrides: str) -> Config:
    return load(str(TINY), list(overrides))


@pytest.mark.parametrize("stage", ["config", "train-supernet", "search", "retrain"])
def test_resize_below_the_image_size_is_an_error(stage: str) -> None:
    with pytest.raises(UserError, match=r"data\.resize: 27 is below the image size 28; use 28 or more"):
        validate.check(recipe("data.resize=27"), stage, 1)
    validate.check(recipe(), "config", 1)


@pytest.mark.parametrize("stage", ["config", "train-supernet", "retrain"])
def test_invalid_zero_file_is_an_error(stage: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"engine\.zero: no file .*; allowed: zero0, zero1, "):
        validate.check(recipe("engine.zero=nonsense"), stage, 1)
    (tmp_path / "own.json").write_text('{"zero_optimization": {"stage": 1, "reduce_bucket_size": "large"}}')
    with pytest.raises(UserError, match=r"own\.json: .*reduce_bucket_size must be a whole number"):
        validate.check(recipe(f"engine.zero={tmp_path}/own.json"), stage, 1)


def make_shard(folder: Path, labels: list[int], names: list[str] | None = None) -> None:
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "a.tar", "w") as tar:
        for i, label in enumerate(labels):
            for extension, content in (("jpg", b"x"), ("cls", str(label).encode())):
                info = tarfile.TarInfo(f"{i}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    if names:
        (folder / "classes.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))


def test_classes_of_shards_are_compared(tmp_path: Path) -> None:
    train, val = tmp_path / "train", tmp_path / "val"
    both = f"data.train={train}", f"data.val={val}"
    for i in range(10):
        (val / f"c{i}").mkdir(parents=True)
    make_shard(train, list(range(10)), [f"c{i}" for i in range(10)])
    validate.check(recipe(*both), "train-supernet", 1)  # shards and folders can be combined
    make_shard(train, list(range(10)), [f"c{i}" for i in range(9)] + ["other"])
    with pytest.raises(UserError, match=r"different classes: c9 is only in data\.val"):
        validate.check(recipe(*both), "train-supernet", 1)
    make_shard(train, list(range(11)), [f"c{i}" for i in range(11)])
    with pytest.raises(UserError, match=r"space\.num_classes: 10, but .*train has 11 classes in classes.json"):
        validate.check(recipe(*both), "train-supernet", 1)
    (train / "classes.json").unlink()
    with pytest.raises(UserError, match=r"different classes: 0 is only in data\.train"):
        validate.check(recipe(*both), "train-supernet", 1)
    with pytest.raises(UserError, match=r"space\.num_classes: 10, but .*train has 11 classes$"):
        read_folder(train, num_classes=10)
    make_shard(train, [0, 99999999999])
    with pytest.raises(UserError, match=r"1.cls: b'99999999999' is not a label; use a number from 0 to 999999"):
        read_folder(train)


@pytest.mark.parametrize("stage", ["config", "train-supernet", "search"])
@pytest.mark.parametrize(
    "choice",
    [
        "search:nothing",
        "search:pareto",
        "search:macs<1.3.1G",
        "search:best[-1]",
    ],
)
def test_invalid_choice_of_the_candidate_to_retrain_is_an_error(stage: str, choice: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^retrain\.spec: .*(does not name a candidate|is not a number)"):
        validate.check(recipe(f"retrain.spec={choice}"), stage, 1)
    for good in ("search:best", "search:best[2]", "search:pareto[0]", "search:macs<1.3G"):
        validate.check(recipe(f"retrain.spec={good}"), "config", 1)
    validate.check(recipe("retrain.spec=search:latency<=5m", "search.latency=[0,1]"), "config", 1)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("search:best[0]", r"search\.top_k=5 keeps search:best\[1\] to search:best\[5\]"),
        ("search:best[6]", r"search\.top_k=5 keeps"),
        ("search:macs<0", "must be above 0"),
        ("search:latency<4m", "the search measures no latency"),
    ],
)
def test_choice_that_the_search_will_not_have_is_an_error(choice: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate.check(recipe(f"retrain.spec={choice}", "search.top_k=5"), "config", 1)


@pytest.mark.parametrize("stage", ["config", "train-supernet"])
def test_too_many_search_images_are_an_error_before_training(stage: str) -> None:
    held_out = recipe().data.search_per_class * 10
    with pytest.raises(UserError, match=rf"search\.images: {held_out + 1} is above the {held_out} search images"):
        validate.check(recipe(f"search.images={held_out + 1}"), stage, 1)


def test_ranks_and_ledger_of_the_search_are_checked() -> None:
    with pytest.raises(UserError, match=r"search\.ranks_per_candidate: 3 does not divide the 4 ranks"):
        validate.check(recipe("search.ranks_per_candidate=3"), "search", 4)
    with pytest.raises(UserError, match=r"search\.reuse: /nowhere: no such ledger"):
        validate.check(recipe("search.reuse=/nowhere"), "search", 4)
    validate.check(
        recipe("search.ranks_per_candidate=3", "search.reuse=/nowhere"), "config", 4
    )  # the search may use other ranks


@pytest.mark.parametrize(
    ("key", "overrides"),
    [
        ("search.objectives", ["search.algorithm=ga", "search.objectives=[macs]"]),
        ("search.racing", ["search.algorithm=random", "search.racing=0.9"]),
        ("search.surrogate", ["search.algorithm=random", "search.surrogate=0.5"]),
        ("supernet.distill", ["supernet.distill=true"]),
        ("supernet.random_subnets", ["supernet.random_subnets=3"]),
        ("supernet.objective", ["supernet.sharing=ordinal", "supernet.objective=loss_mean"]),
        ("search.side_rule", ["supernet.sharing=ordinal", "search.side_rule=logit_sum"]),
    ],
)
def test_a_setting_without_effect_is_one_warning(key: str, overrides: list[str]) -> None:
    with pytest.warns(UserWarning, match=rf"^{key} is ignored: ") as found:
        validate.check(recipe(*overrides), "config", 1)
    assert len(found) == 1


def test_a_compiled_network_cannot_be_retrained_with_zero3() -> None:
    settings = ["engine.compile=true", "engine.zero=zero3"]
    with pytest.raises(UserError, match=r"engine\.compile: .*engine\.zero=zero2"):
        validate.check(load("quickstart", settings), "config", ranks=1)
    validate.check(load("quickstart", [settings[0], "engine.zero=zero2"]), "config", ranks=1)
