"""Headline numbers of a run: merging, kills, digests, and a later search.

Reference: files written by hand.
"""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vitas_ds.config import Config
from vitas_ds.errors import UserError
from vitas_ds.run.files import write_json
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.start import open_run
from vitas_ds.run.summary import complete_summary, read_summary, trains_older_network, update_summary, write_result


def make(root, **sections) -> Config:
    return Config.model_validate(sections | {"run": {"name": "a", "dir": str(root)}})


def test_summary_merges(tmp_path):
    run = open_run(make(tmp_path), True)
    assert read_summary(run) == {}
    update_summary(run, "retrain", {"top1": np.float32(0.5), "loss": float("nan")})
    update_summary(run, "evaluate", {"top1": 0.25, "images": np.int64(10)})
    update_summary(run, "retrain", {"seconds": 3})
    expected = {
        "retrain": {"top1": 0.5, "loss": None, "seconds": 3},
        "evaluate": {"top1": 0.25, "images": 10},
    }
    assert read_summary(run) == expected
    assert not list(run.path.glob(".*"))
    run.summary.write_text("{")
    with pytest.raises(UserError, match=r"summary\.json"):
        read_summary(run)


def test_summary_has_every_finished_stage_after_a_kill(tmp_path):
    """A kill before ``summary.json`` is written; a stage without its product has not ended."""
    run = open_run(make(tmp_path), True)
    write_results(run, tmp_path)
    best = {"spec": {"depth": 3}, "macs": 5, "score": 0.5, "stderr": 0.1}
    write_json(run.best, best | {"seconds": 1.0, "rank": 1, "top": [], "searched_on": 80})
    expected = {"train-supernet": {"steps": 20}, "retrain": {"steps": 30, "loss": 1.5}, "search": {"best": best}}
    assert read_summary(run) == expected
    update_summary(run, "search", {"best": best, "scored": 12})
    expected["search"]["scored"] = 12
    evaluated = {"model": "retrain", "top1": 0.25, "top5": 0.5}
    write_result(run, "evaluate", evaluated | {"sha256": "of another run"})
    left_out = r"evaluation\.json: left out, it was changed or is not of this run; evaluate again"
    with pytest.warns(UserWarning, match=left_out):
        assert read_summary(run) == expected
    write_json(run.evaluation, {"run": "a", "starts": []})  # another file of the run
    with pytest.warns(UserWarning, match=left_out):
        assert read_summary(run) == expected
    evaluated["sha256"] = "of the weights"
    write_result(run, "evaluate", evaluated)
    expected["evaluate"] = evaluated
    expected["retrain"] |= {"top1": 0.25, "top5": 0.5}
    assert read_summary(run) == expected
    card = tmp_path / "README.md"
    card.write_text("new")
    write_result(run, "export", {"bytes": 9}, card)
    for old in ("", "old"):  # killed before the folder got its name
        if old:
            run.export.mkdir()
            (run.export / "README.md").write_text(old)
        assert read_summary(run) == expected
    card.rename(run.export / "README.md")
    run.summary.unlink()
    expected["export"] = {"bytes": 9}
    del expected["search"]["scored"]  # the search itself finds its scores in the ledger
    open_run(make(tmp_path), True)
    assert json.loads(run.summary.read_text()) == expected


def write_results(run: RunDir, folder: Path) -> None:
    """Write the numbers and products of two stages."""
    weights, config = folder / ".weights.safetensors.tmp", folder / "config.json"
    save_file({"w": torch.ones(3)}, weights, {"sha256": "of the tensors"})
    config.write_text('{"sha256": {"model.safetensors": "of the weights"}}')
    write_result(run, "train-supernet", {"steps": 20}, weights)
    write_result(run, "retrain", {"steps": 30, "loss": 1.5}, config)
    assert read_summary(run) == {}
    for path, made in ((run.supernet_weights, weights), (run.retrain_model / "config.json", config)):
        path.parent.mkdir(parents=True, exist_ok=True)
        made.rename(path)


@pytest.mark.parametrize("stage", ["train-supernet", "retrain"])
def test_numbers_count_only_as_written_and_with_their_product(tmp_path, stage):
    run, other = open_run(make(tmp_path / "a"), True), open_run(make(tmp_path / "b"), True)
    write_results(run, tmp_path)
    complete_summary(run)
    expected = read_summary(run)
    record = run.supernet.result if stage == "train-supernet" else run.retrain.result
    written = record.read_text()
    record.write_text(written.replace("0,", "1,"))
    assert record.read_text() != written
    assert read_summary(run) == expected
    made = tmp_path / "made"
    made.write_text("another network")
    write_result(other, stage, {"steps": 9, "loss": 2.5}, made)
    shutil.copy(other.path / record.relative_to(run.path), record)
    assert read_summary(run) == expected


def test_a_changed_best_network_is_left_out(tmp_path):
    run = open_run(make(tmp_path), True)
    best = {"spec": {"depth": 3}, "macs": 5, "score": 0.5}
    written = best | {"rank": 1, "top": [best | {"rank": 1}], "searched_on": 80}
    write_json(run.best, written)
    assert read_summary(run) == {"search": {"best": best}}
    for changed in (written | {"spec": {"depth": 4}}, written | {"top": [best | {"score": 0.6}]}):
        write_json(run.best, changed)
        with pytest.warns(UserWarning, match=r"best\.json: left out, it was changed; restore it, or search again"):
            assert read_summary(run) == {}


def test_an_evaluation_of_weights_without_a_record(tmp_path):
    run = open_run(make(tmp_path), True)
    run.retrain_model.mkdir(parents=True)
    run.retrain_weights.write_bytes(b"weights")
    numbers = {"model": "retrain", "top1": 0.25, "top5": 0.5, "sha256": hashlib.sha256(b"weights").hexdigest()}
    write_result(run, "evaluate", numbers)
    for config in (None, "{}"):
        if config:
            (run.retrain_model / "config.json").write_text(config)
        assert read_summary(run) == {"evaluate": numbers}


def test_a_later_search_may_find_another_network(tmp_path):
    run = open_run(make(tmp_path), True)
    spec = {"patch_size": 4, "embed_dim": 64, "layers": [{"num_heads": 2}], "image_size": 32}
    assert not trains_older_network(run)
    write_json(run.retrain_spec, spec | {"image_size": 224})  # retrained for another image size
    write_json(run.best, {"spec": spec})
    assert not trains_older_network(run)
    write_json(run.best, {"spec": spec | {"embed_dim": 96}})
    assert trains_older_network(run)
    run = open_run(make(tmp_path, retrain={"spec": "search:best[2]"}), True)
    assert not trains_older_network(run)
