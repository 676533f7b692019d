"""Identity of a study: the digest of everything that determines its numbers, and a lock on its folder."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.study import Size
from vitas_ds.errors import UserError

# the sources that determine the numbers
DECIDE = ("defects", "drawing", "images", "jobs", "learning", "scoring", "searching", "study", "working")


def digest(size: Size, digits: Path) -> str:
    """Return a digest of DECIDE, size and images. The commit in each row covers the code of the product."""
    sha = hashlib.sha256(repr(size).encode())
    for name in DECIDE:
        sha.update((Path(__file__).parent / f"{name}.py").read_bytes())
    for path in sorted(path for path in digits.rglob("*") if path.is_file()):
        sha.update(str(path.relative_to(digits)).encode())
        sha.update(path.read_bytes())
    return sha.hexdigest()[:12]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Create a folder and lock it against other processes. The lock ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another start is running in this folder") from None
        yield


def check(record: Record, study: str, commit: str, documents: bool) -> None:
    """Refuse a record of another study, and documents with numbers that no commit reproduces."""
    others = sorted({row.get("study", "unknown") for row in record.rows.values()} - {study})
    if others:
        raise UserError(
            f"{record.path}: rows of another study ({', '.join(others)}), this is {study}; choose another --out"
        )
    commits = {row["git"] for row in record.rows.values()} | {commit}
    if documents and any(commit.endswith("+changes") for commit in commits):
        raise UserError(f"--docs: {record.path} has or would get rows from files that differ from their commit")
