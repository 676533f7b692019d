"""Upload of a finished run to offline W&B, read back from the files of W&B.

Reference: the metrics.jsonl of the run.
"""

import json
import os
from pathlib import Path

import pytest
import wandb
from PIL import Image

from tests.helpers.runs import correct
from tests.helpers.wandb_files import artifacts, history, run_of, table_of
from vitas_ds.__main__ import main
from vitas_ds.run.files import write_text
from vitas_ds.run.metrics import read_metrics
from vitas_ds.search.scoring.ledger_reader import read_ledger

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _no_wandb_settings(monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ERROR_REPORTING"):  # of the tracker
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.slow
@pytest.mark.filterwarnings("error:W&B")
def test_upload_has_every_row_once(run, capsys):
    Image.new("RGB", (8, 8)).save(run.retrain.images)
    write_text(run.export / "spec.json", "{}")
    write_text(run.wandb_ids, json.dumps({"run": "old", "search": "of version 0.1", "elsewhere": "kept"}))
    (run.path / "wandb" / "offline-run-1-old").mkdir(parents=True)  # by the stages; must not be sent
    assert main(["report", str(run.path), "--to-wandb"]) == 0
    (folder,) = map(Path, capsys.readouterr().out.partition("wandb sync ")[2].split())
    (run.path / "wandb" / "offline-run-1-old").rmdir()
    assert [folder] == list((run.path / "wandb").glob("offline-run-*"))
    wandb.teardown()  # completes the file, as at the end of a process
    ids, record = json.loads(run.wandb_ids.read_text()), run_of(folder)
    assert set(ids) == {"run", "elsewhere"} and ids["run"] != "old"
    assert (record.run_id, record.run_group, record.display_name) == (ids["run"], "a", "a")
    rows = history(folder)
    for stage in ("train-supernet", "search", "retrain"):
        expected = [row for row in read_metrics(run) if row["stage"] == stage]
        got = [row for row in rows if f"{stage}/memory_gb" in row]
        assert [row[f"{stage}/step"] for row in got] == [row["step"] for row in expected]
        for name in ("loss", "lr", "memory_gb", "time", "best"):
            assert [row.get(f"{stage}/{name}") for row in got] == [row.get(name) for row in expected]
    keys = {key.split(".")[0] for row in rows for key in row}
    assert {f"search/{name}" for name in ("hypervolume", "best", "mean", "scores", "candidates", "pareto")} <= keys
    assert {
        f"retrain/{name}" for name in ("grad_norm", "net_macs", "lr", "images_per_s", "data_wait", "images")
    } <= keys
    assert "report/page" in keys
    assert {("spec", "best-spec"), ("model", "a-model")} <= set(artifacts(folder))


@pytest.mark.slow
def test_uploaded_scores_are_those_of_the_search(run, capsys):
    """The table and the histogram have the corrected scores; the table of the check has the measured ones."""
    correction = correct(run)
    expected = [c.value for c in correction.apply(read_ledger(run.ledger))]
    measured = [row["score"] for row in json.loads(run.check.read_text())["nets"]]
    assert main(["report", str(run.path), "--to-wandb"]) == 0
    (folder,) = map(Path, capsys.readouterr().out.partition("wandb sync ")[2].split())
    wandb.teardown()
    tables = {name: table_of(folder, f"search/{name}") for name in ("candidates", "check")}
    assert sorted(column(tables["candidates"], "score")) == pytest.approx(sorted(expected), abs=1e-12)
    assert column(tables["check"], "score") == measured
    bins = [row["search/scores.bins"] for row in history(folder) if "search/scores.bins" in row]
    assert (bins[0][0], bins[0][-1]) == pytest.approx((min(expected[:6]), max(expected[:6])))


def column(table, name):
    return [row[table["columns"].index(name)] for row in table["data"]]


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
    assert len(errors) == 3 and "W&B is disabled" in errors[0] and "is missing or empty" in errors[1]
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
    assert len(list((run.path / "wandb").glob("offline-run-*"))) == 1


@pytest.mark.slow
def test_failed_upload_keeps_the_old_ids(run, monkeypatch, tmp_path, capsys):
    write_text(run.wandb_ids, '{"run": "old"}')
    write_text(tmp_path / "file", "")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "file" / "below"))
    assert main(["report", str(run.path), "--to-wandb"]) == 2
    assert "W&B does not start" in capsys.readouterr().err
    assert json.loads(run.wandb_ids.read_text()) == {"run": "old"}
