"""A run's record, sent to (offline) W&B afterwards and read back from W&B's own files."""

import json
import os
from pathlib import Path

import pytest
import wandb
from PIL import Image

from tests.helpers.wandb_files import artifacts, history, run_of
from vitas_ds.__main__ import main
from vitas_ds.run.files import write_text
from vitas_ds.run.metrics import read_metrics

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _no_wandb_settings(monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):  # the tracker sets these; undo it after the test
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.slow
@pytest.mark.filterwarnings("error:W&B")
def test_every_row_arrives_once_in_a_run_for_each_stage(run, capsys):
    Image.new("RGB", (8, 8)).save(run.retrain.images)
    write_text(run.export / "spec.json", "{}")
    write_text(run.wandb_ids, json.dumps({"search": "old", "elsewhere": "kept"}))
    (run.path / "wandb" / "offline-run-1-old").mkdir(parents=True)  # the stage's own: its record would be sent twice
    assert main(["report", str(run.path), "--to-wandb"]) == 0
    told = capsys.readouterr().out.partition("wandb sync ")[2].split()
    assert len(told) == 4 and {Path(word).parent for word in told} == {run.path / "wandb"}
    (run.path / "wandb" / "offline-run-1-old").rmdir()
    assert set(map(Path, told)) == set((run.path / "wandb").glob("offline-run-*"))
    wandb.teardown()  # at the end of a process: its files are whole
    ids = json.loads(run.wandb_ids.read_text())
    assert ids.pop("elsewhere") == "kept" and ids["search"] != "old"
    folders = {run_of(path).job_type: path for path in (run.path / "wandb").glob("offline-run-*")}
    assert set(folders) == set(ids) == {"train-supernet", "search", "retrain", "export"}
    for stage, folder in folders.items():
        known = run_of(folder)
        assert (known.run_id, known.run_group, known.display_name) == (ids[stage], "a", f"a-{stage}")
        wanted = [row for row in read_metrics(run) if row["stage"] == stage]
        got = [row for row in history(folder) if "memory_gb" in row]
        assert [row["step"] for row in got] == [row["step"] for row in wanted]
        for name in ("loss", "lr", "memory_gb", "time", "best"):
            assert [row.get(name) for row in got] == [row.get(name) for row in wanted]
    keys = {stage: {key.split(".")[0] for row in history(path) for key in row} for stage, path in folders.items()}
    assert {"hypervolume", "best", "mean", "scores", "search/candidates"} <= keys["search"]
    assert {"grad_norm", "net_macs", "lr", "images_per_s", "data_wait", "images"} <= keys["retrain"]
    assert ("spec", "best-spec") in artifacts(folders["search"])
    assert ("model", "a-model") in artifacts(folders["export"])


def test_mistakes_are_one_line(config, run, monkeypatch, capsys):
    before = run.wandb_ids.read_text() if run.wandb_ids.exists() else None
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert main(["report", str(run.path), "--to-wandb"]) == 2
    monkeypatch.delenv("WANDB_MODE")
    run.metrics.unlink()
    assert main(["report", str(run.path), "--to-wandb"]) == 2
    assert main(["report", str(run.path), str(run.path), "--to-wandb"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert main(["report", str(run.path), "tracking.wandb=disabled", "--to-wandb"]) == 2
    assert "tracking.wandb=disabled: excludes --to-wandb" in capsys.readouterr().err
    assert len(said) == 3 and "WANDB_MODE is disabled" in said[0] and "nothing is recorded" in said[1]
    assert "one run" in said[2]
    assert before == (run.wandb_ids.read_text() if run.wandb_ids.exists() else None)


@pytest.mark.slow
def test_without_a_network_it_is_offline_and_says_so(run, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "5")
    run.metrics.write_text("".join(run.metrics.read_text().splitlines(keepends=True)[590:620]))  # of three stages
    assert main(["report", str(run.path), "--to-wandb", "tracking.wandb=online"]) == 0
    said = capsys.readouterr()
    assert "retrain, offline; to send them: wandb sync" in said.out and said.err.count("continuing offline") == 1
    assert len(list((run.path / "wandb").glob("offline-run-*"))) == 3  # and was asked for once


@pytest.mark.slow
def test_a_failure_keeps_the_old_ids(run, monkeypatch, tmp_path, capsys):
    write_text(run.wandb_ids, '{"search": "old"}')
    write_text(tmp_path / "file", "")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "file" / "below"))
    assert main(["report", str(run.path), "--to-wandb"]) == 2
    assert "W&B does not start" in capsys.readouterr().err
    assert json.loads(run.wandb_ids.read_text()) == {"search": "old"}
