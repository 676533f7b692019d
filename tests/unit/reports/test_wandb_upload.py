"""Upload of a finished run to offline W&B, read back from the files of W&B.

Reference: the metrics.jsonl of the run.
"""

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
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):  # the tracker sets these; monkeypatch restores them
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.slow
@pytest.mark.filterwarnings("error:W&B")
def test_upload_has_every_row_once(run, capsys):
    Image.new("RGB", (8, 8)).save(run.retrain.images)
    write_text(run.export / "spec.json", "{}")
    write_text(run.wandb_ids, json.dumps({"search": "old", "elsewhere": "kept"}))
    (run.path / "wandb" / "offline-run-1-old").mkdir(parents=True)  # by the stage; must not be sent
    assert main(["report", str(run.path), "--to-wandb"]) == 0
    folders = capsys.readouterr().out.partition("wandb sync ")[2].split()
    assert len(folders) == 4 and {Path(folder).parent for folder in folders} == {run.path / "wandb"}
    (run.path / "wandb" / "offline-run-1-old").rmdir()
    assert set(map(Path, folders)) == set((run.path / "wandb").glob("offline-run-*"))
    wandb.teardown()  # completes the files, as at the end of a process
    ids = json.loads(run.wandb_ids.read_text())
    assert ids.pop("elsewhere") == "kept" and ids["search"] != "old"
    by_stage = {run_of(path).job_type: path for path in (run.path / "wandb").glob("offline-run-*")}
    assert set(by_stage) == set(ids) == {"train-supernet", "search", "retrain", "export"}
    for stage, folder in by_stage.items():
        record = run_of(folder)
        assert (record.run_id, record.run_group, record.display_name) == (ids[stage], "a", f"a-{stage}")
        expected = [row for row in read_metrics(run) if row["stage"] == stage]
        got = [row for row in history(folder) if "memory_gb" in row]
        assert [row["step"] for row in got] == [row["step"] for row in expected]
        for name in ("loss", "lr", "memory_gb", "time", "best"):
            assert [row.get(name) for row in got] == [row.get(name) for row in expected]
    keys = {stage: {key.split(".")[0] for row in history(path) for key in row} for stage, path in by_stage.items()}
    assert {"hypervolume", "best", "mean", "scores", "search/candidates"} <= keys["search"]
    assert {"grad_norm", "net_macs", "lr", "images_per_s", "data_wait", "images"} <= keys["retrain"]
    assert ("spec", "best-spec") in artifacts(by_stage["search"])
    assert ("model", "a-model") in artifacts(by_stage["export"])


def test_user_errors_are_one_line(config, run, monkeypatch, capsys):
    before = run.wandb_ids.read_text() if run.wandb_ids.exists() else None
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert main(["report", str(run.path), "--to-wandb"]) == 2
    monkeypatch.delenv("WANDB_MODE")
    run.metrics.unlink()
    assert main(["report", str(run.path), "--to-wandb"]) == 2
    assert main(["report", str(run.path), str(run.path), "--to-wandb"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert main(["report", str(run.path), "tracking.wandb=disabled", "--to-wandb"]) == 2
    assert "tracking.wandb=disabled: contradicts --to-wandb" in capsys.readouterr().err
    assert len(errors) == 3 and "WANDB_MODE is disabled" in errors[0] and "is missing or empty" in errors[1]
    assert "one run" in errors[2]
    assert before == (run.wandb_ids.read_text() if run.wandb_ids.exists() else None)


@pytest.mark.slow
def test_upload_without_a_network_is_offline(run, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "5")
    run.metrics.write_text("".join(run.metrics.read_text().splitlines(keepends=True)[590:620]))  # lines of three stages
    assert main(["report", str(run.path), "--to-wandb", "tracking.wandb=online"]) == 0
    output = capsys.readouterr()
    assert "retrain, offline; to send them: wandb sync" in output.out and output.err.count("continuing offline") == 1
    assert len(list((run.path / "wandb").glob("offline-run-*"))) == 3  # with one warning for all


@pytest.mark.slow
def test_failed_upload_keeps_the_old_ids(run, monkeypatch, tmp_path, capsys):
    write_text(run.wandb_ids, '{"search": "old"}')
    write_text(tmp_path / "file", "")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "file" / "below"))
    assert main(["report", str(run.path), "--to-wandb"]) == 2
    assert "W&B does not start" in capsys.readouterr().err
    assert json.loads(run.wandb_ids.read_text()) == {"search": "old"}
