"""Checks of random images, decoders and shrunk data sets before a stage starts.

Reference: configurations with one problem each.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from tests.helpers.paths import FIXTURES
from vitas_ds.config import Config
from vitas_ds.errors import UserError
from vitas_ds.recipe import load
from vitas_ds.run.start import open_run
from vitas_ds.stages import validate


def recipe(*overrides: str) -> Config:
    return load(str(FIXTURES / "tiny.yaml"), list(overrides))


def test_random_images_need_no_folders_and_are_announced(tmp_path: Path) -> None:
    config = recipe("data.synthetic=true", "data.train=/nonexistent", f"run.dir={tmp_path}")
    for stage in ("train-supernet", "search", "retrain", "evaluate"):
        with pytest.warns(UserWarning, match="random images replace data.train and data.val"):
            validate.check(config, stage, 1)
    run = open_run(config, True, stage="evaluate")
    assert "results mean nothing" in json.loads(run.manifest.read_text())["starts"][0]["images"]
    with pytest.raises(UserError, match=r"belongs to a run with data\.synthetic=true"):
        run.supernet.path.mkdir()
        run.supernet_weights.touch()
        open_run(recipe("data.train=/nonexistent", f"run.dir={tmp_path}"), True)


def test_host_decoder_without_a_gpu_is_ignored() -> None:
    with pytest.warns(UserWarning, match=r"data\.decoder is ignored: run\.device is cpu") as found:
        validate.check(recipe("data.decoder=host", "run.device=cpu"), "config", 1)
    assert len(found) == 1


def shrunk(root: Path, short_side: int, complete: bool = True) -> Path:
    for label in range(10):
        (root / f"c{label}").mkdir(parents=True)
    (root / "data.json").write_text(json.dumps({"short_side": short_side, "quality": 90, "complete": complete}))
    return root


def test_shrunk_images_must_be_complete_and_large_enough(tmp_path: Path) -> None:
    unfinished = shrunk(tmp_path / "unfinished", 28, complete=False)
    (unfinished / "c9").rmdir()  # its images come last
    with pytest.raises(UserError, match="resize-data has not finished this folder; start it again"):
        validate.check(recipe(f"data.train={unfinished}"), "retrain", 1)
    small = shrunk(tmp_path / "small", 20)
    with pytest.warns(UserWarning, match=r"data\.resize: 28 is above the short side 20 to which .* data\.train"):
        validate.check(recipe(f"data.train={small}"), "retrain", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        validate.check(recipe(f"data.train={shrunk(tmp_path / 'large', 28)}"), "retrain", 1)
