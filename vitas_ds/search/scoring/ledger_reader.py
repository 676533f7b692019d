"""Read the candidates in a ledger. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vitas_ds.errors import UserError
from vitas_ds.errors.reading import open_binary
from vitas_ds.search.scoring.candidate import Candidate
from vitas_ds.search.scoring.ledger_digest import without_digest
from vitas_ds.search.scoring.ledger_lines import LineParser, Scoring


def read_ledger(path: Path, scoring: Scoring | None = None, missing_ok: bool = False) -> list[Candidate]:
    """Return the candidates in a ledger. An incomplete last line is ignored.

    Args:
        path: The ledger's file.
        scoring: Settings that each line must have been scored with; None to accept any.
        missing_ok: Return an empty list if the file does not exist.

    Raises:
        UserError: The file does not exist, a line is invalid, or was scored with other settings.
    """
    return list(iter_ledger(path, scoring, missing_ok))


def iter_ledger(path: Path, scoring: Scoring | None = None, missing_ok: bool = False) -> Iterator[Candidate]:
    """Yield the candidates in a ledger one by one, as ``read_ledger``: a million of them would take 4 GB."""
    parser = LineParser(path, scoring)
    for number, line in lines(path, missing_ok):
        yield parser.candidate(line, number)


def lines(path: Path, missing_ok: bool) -> Iterator[tuple[int, bytes]]:
    """Yield the complete lines of a ledger, verified and without their digests, with their numbers, from 1."""
    try:
        file = open_binary(path)
    except FileNotFoundError:
        if missing_ok:
            return
        raise UserError(f"{path}: no such ledger") from None
    with file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                yield number, without_digest(line[:-1], f"{path}: line {number}")
