"""Estimates of the resources of a search and of the remaining time of a run. Reference: counts by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.paths import FIXTURES
from vitas_ds.arch.cost import spec_macs
from vitas_ds.data.sources import ImageSet
from vitas_ds.distributed.comm import Ranks
from vitas_ds.recipe import load
from vitas_ds.run.metrics import progress_line
from vitas_ds.run.run_dir import run_of
from vitas_ds.run.summary import update_summary
from vitas_ds.stages import forecast
from vitas_ds.stages.train_supernet import make_task

ALONE = Ranks(0, 1, 0, torch.device("cpu"))
LABELS = np.arange(160) % 10
IMAGES = ImageSet("digits", tuple(f"{i}.jpg" for i in range(160)), LABELS, tuple("0123456789"))


def test_the_later_stages_of_a_run(tmp_path: Path) -> None:
    """Two sides; 2 x 10 steps of 16; 6 x 2 candidates on 80 images; then 2 epochs of 240 images, at 275,000 MACs."""
    config = load(str(FIXTURES / "tiny.yaml"), [f"run.dir={tmp_path}"])
    run = run_of(config)
    task = make_task(config, run, ALONE, IMAGES)
    drawn = [spec_macs(task.subnets(step)[0]) for step in range(0, 20, 2)]
    own = 3 * sum(drawn) / 10 * 2 * 20 * 16
    search, retrain = 12 * 80 * 275_000 * 2, 3 * 275_000 * 240 * 2
    assert forecast.after_supernet(task, run) == pytest.approx((search + retrain) / own)
    assert math.isnan(forecast.after_search(config, run))  # of a supernet from elsewhere
    update_summary(run, "train-supernet", {"steps": 20})
    assert forecast.after_search(config, run) == pytest.approx(retrain / search)
    run.search.mkdir()
    run.best.touch()
    assert forecast.after_supernet(task, run) == pytest.approx(retrain / own)
    run.retrain_model.mkdir(parents=True)
    run.retrain_weights.touch()
    assert forecast.after_supernet(task, run) == 0


def test_the_finalists_and_a_known_network_count(tmp_path: Path) -> None:
    words = ["search.finalists.count=2", "search.finalists.steps=30", "retrain.spec=deit-ti", f"run.dir={tmp_path}"]
    config = load(str(FIXTURES / "tiny.yaml"), words)
    update_summary(run_of(config), "train-supernet", {"steps": 20})
    search = 12 * 80 * 275_000 * 2 + 3 * 275_000 * 2 * 30 * 16
    retrain = 3 * 1_253_683_392 * 240 * 2  # facts: 1.254G
    assert forecast.after_search(config, run_of(config)) == pytest.approx(retrain / search, rel=1e-3)
    config = load(str(FIXTURES / "tiny.yaml"), [*words, "search.budgets=[250K, 300K]"])  # each with its own finalists
    assert forecast.after_search(config, run_of(config)) == pytest.approx(retrain / (2 * search), rel=1e-3)
    config = load(str(FIXTURES / "tiny.yaml"), [*words, "search.check.nets=5", "search.check.steps=40"])
    search += 3 * 275_000 * 5 * 40 * 16
    assert forecast.after_search(config, run_of(config)) == pytest.approx(retrain / search, rel=1e-3)


def test_the_estimate_of_a_search(capsys: pytest.CaptureFixture[str]) -> None:
    config = load(str(FIXTURES / "tiny.yaml"), [])
    forecast.print_search_estimate(config, ALONE, 1_000_000, 80)
    assert capsys.readouterr().out.startswith("search: estimate: 12 candidates on 80 images, 10.1 kB on disk, ")
    fewer = load(str(FIXTURES / "tiny.yaml"), ["search.images=50"])
    forecast.print_search_estimate(fewer, ALONE, 1_000_000, 80)
    assert capsys.readouterr().out.startswith("search: estimate: 12 candidates on 50 images, 10.1 kB on disk, ")
    forecast.print_search_estimate(config, Ranks(1, 2, 1, torch.device("cpu")), 1_000_000, 80)
    assert capsys.readouterr().out == ""


def test_the_progress_line_has_the_time_of_all_stages() -> None:
    line = progress_line("train-supernet", 20, 400, {"loss": 1.0}, 65, 725)
    assert line == "train-supernet   20/400  loss 1.0000  ETA 1:05  all stages about 12:05"
    assert progress_line("search", 1, 4, {}, 65).endswith("ETA 1:05")
