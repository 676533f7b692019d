"""W&B (real, offline) as a mirror of the tracker.

Reference: the offline files of W&B.
"""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
import wandb
from PIL import Image

from tests.helpers.tracked import make
from tests.helpers.wandb_files import history, run_of
from vitas_ds.config import Config
from vitas_ds.errors import UserError
from vitas_ds.run.files import write_text
from vitas_ds.run.metrics import read_metrics
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.tracking import check_tracking, open_tracker
from vitas_ds.run.wandb_mirror import wandb_mode


@pytest.fixture(autouse=True)
def _no_wandb_settings(monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ERROR_REPORTING"):  # of the tracker
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_disabled_does_not_import_wandb(tmp_path):
    code = (
        "import sys; from pathlib import Path; from vitas_ds.config import Config\n"
        "from vitas_ds.run.run_dir import RunDir\n"
        "from vitas_ds.run.tracking import open_tracker\n"
        "config = Config.model_validate({'tracking': {'wandb': 'disabled'}})\n"
        "with open_tracker(config, RunDir(Path(sys.argv[1])), 'search', True) as tracker: tracker.log(1, {'x': 1})\n"
        "assert 'wandb' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=True)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["life", "metrics.jsonl"]


def test_mode(tmp_path, monkeypatch):
    auto, _ = make(tmp_path, "auto")
    assert wandb_mode(auto) == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert wandb_mode(auto) == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode(auto) == "disabled"
    assert wandb_mode(make(tmp_path, "offline")[0]) == "offline"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_MODE": "run"}, "online"),
        ({"WANDB_MODE": "online", "WANDB_DISABLED": "true"}, "disabled"),
        ({"WANDB_MODE": "offline", "WANDB_DISABLED": "false"}, "offline"),
    ],
)
def test_mode_of_the_environment(tmp_path, monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wandb_mode(make(tmp_path, "auto")[0]) == expected
    assert wandb_mode(make(tmp_path, "offline")[0]) == "offline"  # the recipe wins


def test_unknown_mode_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(UserError, match=r"^WANDB_MODE: must be online, offline or disabled \(given: ofline\)$"):
        check_tracking(make(tmp_path, "auto")[0])
    check_tracking(make(tmp_path, "disabled")[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("error:W&B")
def test_wandb_offline_continues_one_run(tmp_path):
    config, run = make(tmp_path, "offline")
    write_text(run.wandb_ids, '{"search": "of version 0.1"}')
    picture = tmp_path / "x.png"
    Image.new("RGB", (4, 4)).save(picture)
    for start in (0, 2):
        with open_tracker(config, run, "search", True, total=4, start_step=start) as tracker:
            tracker.log(start + 1, {"best": 0.5})
            tracker.log(start + 2, {"best": 0.75})
            tracker.image("search/front", picture)
            tracker.table("search/candidates", ["macs", "score"], [[1, 0.5], [2, 0.6]])
            tracker.histogram("widths", [1, 2, 2, 3])
            tracker.artifact("best-spec", "spec", picture)
            tracker.summary({"best": {"macs": 7}})
    with open_tracker(config, run, "retrain", True, total=1) as tracker:
        tracker.log(1, {"loss": 1.0})
        tracker.image("images", picture)
    ids = json.loads(run.wandb_ids.read_text())
    assert set(ids) == {"run", "search"} and ids["search"] == "of version 0.1"
    wandb.teardown()  # completes the files, as at the end of a process
    folders = list((run.path / "wandb").glob("offline-run-*"))
    records = [run_of(folder) for folder in folders]
    assert [(r.run_id, r.display_name, r.run_group) for r in records] == [(ids["run"], "a", "a")] * 3
    rows = [row for folder in folders for row in history(folder)]
    assert sorted(row["search/step"] for row in rows if "search/best" in row) == [1, 2, 3, 4]
    assert [(row["retrain/step"], row["retrain/loss"]) for row in rows if "retrain/loss" in row] == [(1, 1.0)]
    keys = {key.split(".")[0] for row in rows for key in row}
    assert {"search/front", "search/candidates", "search/widths", "retrain/images"} <= keys
    assert all(key.partition("/")[0] in ("search", "retrain") or key.startswith("_") for key in keys)


VARIABLES = {"WANDB_PROJECT": "p", "WANDB_ENTITY": "e", "WANDB_TAGS": "b, a", "WANDB_NOTES": "n"}
RECIPE = {"project": "P", "entity": "E", "tags": ["C"], "notes": "N"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "variables", "expected"),
    [
        ({}, {}, ("vitas_ds", "", [], "")),
        ({}, VARIABLES, ("p", "e", ["a", "b"], "n")),
        (RECIPE, VARIABLES, ("P", "E", ["C"], "N")),
        ({"tags": [], "notes": ""}, VARIABLES, ("p", "e", [], "")),
    ],
)
def test_recipe_then_environment(tmp_path, monkeypatch, recipe, variables, expected):
    tracking = {"wandb": "offline"} | recipe
    config = Config.model_validate({"run": {"name": "a", "dir": str(tmp_path)}, "tracking": tracking})
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    open_tracker(config, RunDir(tmp_path / "a"), "search", True, total=1).close()
    wandb.teardown()
    (folder,) = (tmp_path / "a" / "wandb").glob("offline-run-*")
    record = run_of(folder)
    assert (record.project, record.entity, sorted(record.tags), record.notes) == expected


@pytest.mark.slow
def test_other_variables_of_wandb(tmp_path, monkeypatch):
    config, run = make(tmp_path, "auto")
    variables = {"RUN_ID": "myrun", "NAME": "title", "RUN_GROUP": "group", "JOB_TYPE": "job", "MODE": "offline",
                 "DIR": str(tmp_path / "elsewhere")}  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    open_tracker(config, run, "search", True, total=1).close()
    wandb.teardown()
    (folder,) = (tmp_path / "elsewhere" / "wandb").glob("offline-run-*")
    record = run_of(folder)
    assert (record.run_id, record.display_name, record.run_group, record.job_type) == ("myrun", "title", "group", "job")
    assert json.loads(run.wandb_ids.read_text()) == {"run": "myrun"} and not (run.path / "wandb").exists()


OFFLINE = """
import sys
import time
from pathlib import Path
from vitas_ds.config import Config
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.tracking import open_tracker
config = Config.model_validate({"tracking": {"wandb": "offline"}})
with open_tracker(config, RunDir(Path(sys.argv[1]) / "a"), "search", True, total=1) as tracker:
    tracker.log(1, {"best": 0.5})
    tracker.image("images", Path(sys.argv[2]))
    tracker.table("candidates", ["macs"], [[1]])
    tracker.artifact("best-spec", "spec", Path(sys.argv[2]))
"""


def offline_run(tmp_path, start=(), **variables):
    """Track a stage offline in a process of its own; return the logged rows."""
    picture = tmp_path / "x.png"
    Image.new("RGB", (4, 4)).save(picture)
    command = [*start, sys.executable, "-W", "error", "-c", OFFLINE, str(tmp_path), str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | variables)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "a" / "wandb").glob("offline-run-*")
    return history(folder)


@pytest.mark.slow
def test_offline_wandb_makes_no_network_calls(tmp_path):
    """The address of W&B and every proxy lead to a socket of this test: nobody connects to it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy", "http_proxy"), address)
        rows = offline_run(tmp_path, WANDB_BASE_URL=address, NO_PROXY="", no_proxy="", **proxies)
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert any(row.get("search/best") == 0.5 for row in rows)


@pytest.mark.slow
def test_offline_wandb_without_a_route(tmp_path):
    """All interfaces of a network namespace are down, even the loopback."""
    start = ("unshare", "--user", "--map-root-user", "--net")
    if not shutil.which("unshare") or subprocess.run([*start, "true"], capture_output=True).returncode:
        pytest.skip("this machine permits no network namespace (unshare -rn)")
    rows = offline_run(tmp_path, start)
    assert any(row.get("search/best") == 0.5 for row in rows)


def test_a_wandb_error_does_not_end_the_run(tmp_path):
    config, run = make(tmp_path, "offline")
    with open_tracker(config, run, "search", True, total=2) as tracker:
        with pytest.warns(UserWarning, match="the run continues without it"):
            tracker.image("samples", tmp_path / "no_such.png")
        tracker.log(2, {"best": 1.0})
    assert read_metrics(run)[-1]["best"] == 1.0


def test_wandb_fails_to_start(tmp_path, monkeypatch):
    config, run = make(tmp_path, "offline")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "file" / "below"))
    with pytest.warns(UserWarning, match="W&B does not start"):
        tracker = open_tracker(config, run, "search", True, total=1)
    tracker.log(1, {"best": 1.0})
    tracker.close()
    assert len(read_metrics(run)) == 1


@pytest.mark.slow
def test_wandb_online_without_a_network_continues_offline(tmp_path, monkeypatch):
    config, run = make(tmp_path, "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "5")
    with pytest.warns(UserWarning, match="continuing offline"):
        tracker = open_tracker(config, run, "search", True, total=1)
    tracker.log(1, {"best": 1.0})
    tracker.close()
    assert list((run.path / "wandb").glob("offline-run-*"))
