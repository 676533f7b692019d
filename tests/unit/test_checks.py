"""What is refused before a stage starts."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from vitas_ds import checks
from vitas_ds.config import Config, load
from vitas_ds.data.sources import read_folder
from vitas_ds.errors import UserError

TINY = Path(__file__).parents[1] / "fixtures" / "tiny.yaml"


def recipe(*overrides: str) -> Config:
    return load(str(TINY), list(overrides))


@pytest.mark.parametrize("stage", ["config", "train-supernet", "search", "retrain"])
def test_images_that_evaluation_would_have_to_enlarge(stage: str) -> None:
    with pytest.raises(UserError, match=r"data\.resize: 27 is below space\.image_size=28; 28 or above"):
        checks.check(recipe("data.resize=27"), stage, 1)
    checks.check(recipe(), "config", 1)


@pytest.mark.parametrize("stage", ["config", "train-supernet", "retrain"])
def test_a_zero_stage_that_there_is_not(stage: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"engine\.zero: no file .*; there are zero0, zero1, "):
        checks.check(recipe("engine.zero=nonsense"), stage, 1)
    (tmp_path / "own.json").write_text('{"zero_optimization": {"stage": 1, "reduce_bucket_size": "large"}}')
    with pytest.raises(UserError, match=r"own\.json: .*reduce_bucket_size must be a whole number"):
        checks.check(recipe(f"engine.zero={tmp_path}/own.json"), stage, 1)


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


def test_classes_of_shards_are_counted_and_compared(tmp_path: Path) -> None:
    train, val = tmp_path / "train", tmp_path / "val"
    both = f"data.train={train}", f"data.val={val}"
    for i in range(10):
        (val / f"c{i}").mkdir(parents=True)
    make_shard(train, list(range(10)), [f"c{i}" for i in range(10)])
    checks.check(recipe(*both), "train-supernet", 1)  # shards and folders go together
    make_shard(train, list(range(10)), [f"c{i}" for i in range(9)] + ["other"])
    with pytest.raises(UserError, match=r"different classes: c9 is in data\.val alone"):
        checks.check(recipe(*both), "train-supernet", 1)
    make_shard(train, list(range(11)), [f"c{i}" for i in range(11)])
    with pytest.raises(UserError, match=r"space\.num_classes: 10, but .*train has 11 classes in classes.json"):
        checks.check(recipe(*both), "train-supernet", 1)
    (train / "classes.json").unlink()
    with pytest.raises(UserError, match=r"different classes: 0 is in data\.train alone"):
        checks.check(recipe(*both), "train-supernet", 1)
    with pytest.raises(UserError, match=r"space\.num_classes: 10, but .*train has 11 classes$"):
        read_folder(train, num_classes=10)
    make_shard(train, [0, 99999999999])
    with pytest.raises(UserError, match=r"1.cls: b'99999999999' is not a label; a number from 0 to 999999"):
        read_folder(train)
