"""Records, user errors and interruptions of tests/benchmarks/fidelity.

References: records and folders written by hand, and the process table.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.benchmarks.fidelity import __main__ as command
from tests.benchmarks.fidelity import origin, study
from tests.benchmarks.fidelity.record import KEYS, Record
from vitas_ds.errors import UserError


def row_of(job: str, **more) -> dict:
    return dict.fromkeys(KEYS, "") | {"job": job, "kind": "net", "git": "abc", "study": "1"} | more


def test_an_incomplete_line_of_the_record_is_removed(tmp_path):
    record = Record(tmp_path / "record.jsonl")
    record.add(row_of("a"))
    with record.path.open("a") as file:
        file.write('{"job": "b", "ki')
    again = Record(record.path)
    assert list(again.rows) == ["a"]
    again.add(row_of("c"))
    assert list(Record(record.path).rows) == ["a", "c"]


@pytest.mark.parametrize("line", ["{broken", "[1]", '{"job": "b"}'])
def test_an_invalid_line_of_the_record_is_an_error(tmp_path, line):
    record = Record(tmp_path / "record.jsonl")
    record.add(row_of("a"))
    record.path.write_text(record.path.read_text() + line + "\n")
    with pytest.raises(UserError, match=r"record\.jsonl:2: "):
        Record(record.path)


def test_records_of_another_study_and_documents_of_changed_files_are_refused(tmp_path):
    record = Record(tmp_path / "record.jsonl")
    record.add(row_of("a"))
    origin.check(record, "1", "abc", documents=True)
    origin.check(record, "1", "abc+changes", documents=False)
    with pytest.raises(UserError, match="differ from their commit"):
        origin.check(record, "1", "abc+changes", documents=True)
    with pytest.raises(UserError, match="another study"):
        origin.check(record, "2", "abc", documents=False)
    record.add({name: value for name, value in row_of("b").items() if name != "study"})
    with pytest.raises(UserError, match="unknown"):
        origin.check(record, "1", "abc", documents=False)


def test_the_digest_covers_size_and_images(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"1")
    first = origin.digest(study.FULL, tmp_path)
    assert first == origin.digest(study.FULL, tmp_path) != origin.digest(study.SMALL, tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"2")
    assert first != origin.digest(study.FULL, tmp_path)


def test_a_folder_is_locked_by_one_start(tmp_path):
    with origin.alone(tmp_path / "x"), pytest.raises(UserError, match="another start"), origin.alone(tmp_path / "x"):
        pass
    with origin.alone(tmp_path / "x"):
        pass


def digits(root: Path, parts=("train", "val")) -> str:
    for part in parts:
        (root / part / "0").mkdir(parents=True)
        (root / part / "0" / "a.jpg").write_bytes(b"")
    (root / "train").mkdir(parents=True, exist_ok=True)
    return str(root)


def test_a_user_error_is_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    good, empty = digits(tmp_path / "good"), digits(tmp_path / "empty", ("val",))
    (tmp_path / "file").write_text("")
    (tmp_path / "out" / "small").mkdir(parents=True)
    (tmp_path / "out" / "small" / "record.jsonl").write_text("{}\n")
    for args, message in (
        (["--workers", "0", "--digits", good], "--workers 0"),
        (["--digits", empty], "no images in train/"),
        (["--digits", good, "--out", str(tmp_path / "file" / "below")], "file/below"),
        (["--digits", good, "--out", str(tmp_path / "out")], "record.jsonl:1"),
        (["--digits", good, "--docs", str(tmp_path / "file")], "file"),
    ):
        monkeypatch.setattr("sys.argv", ["fidelity", "--small", *args])
        with pytest.raises(SystemExit) as end:
            command.main()
        error = capsys.readouterr().err
        assert end.value.code == 2 and error.count("\n") == 1 and message in error, (args, error)


POOL = """
import os, time
from tests.benchmarks.fidelity.pool import pool
pool = pool(2)
for future in [pool.submit(os.getpid) for _ in range(8)]: future.result()
print(*pool._processes, flush=True)
pool.submit(time.sleep, 600)
time.sleep(600)
"""


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_a_killed_study(number):
    study_ = subprocess.Popen([sys.executable, "-c", POOL], stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in study_.stdout.readline().split()]
    assert len(workers) == 2 and all(map(running, workers))
    study_.send_signal(number)
    study_.wait()
    until = time.monotonic() + 60
    while any(map(running, workers)):
        assert time.monotonic() < until
        time.sleep(0.1)
