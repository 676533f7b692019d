"""The ledger of scores: every score is on disk as soon as it is known, one JSON object per line.

A score belongs to a subnet in canonical form, to the number of search images, and to the ``scoring`` settings
(supernet, images, side rule, ...) that each line repeats. Everything else may differ: a search with another budget,
algorithm or seed can reuse the scores of a ledger.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.distributed.comm import from_main
from vitas_ds.errors import UserError
from vitas_ds.run.files import append_line, to_json
from vitas_ds.search.scoring.candidate import Candidate, Score, candidate_from_dict

Scoring = dict[str, str | int]
"""Settings that a score depends on, by name, except the subnet and the number of images."""

Key = tuple[str, int]
"""Canonical subnet and number of images."""


class Ledger:
    """Known scores and the file that new ones are appended to.

    Attributes:
        path: The file; None for a ledger in memory and on all ranks except 0.
        scoring: Settings that all scores depend on.
        own: Scores in the file.
        reused: Scores from the ledger of another search.
    """

    def __init__(
        self,
        path: Path | None,
        scoring: Scoring,
        own: dict[Key, Score] | None = None,
        reused: dict[Key, Score] | None = None,
    ) -> None:
        self.path, self.scoring, self.own, self.reused = path, scoring, own or {}, reused or {}

    def find(self, spec: SubnetSpec, images: int) -> Score | None:
        """Return the score of a subnet on this number of images, or None if it is not known."""
        return self.own.get(key(spec, images), self.find_reused(spec, images))

    def find_reused(self, spec: SubnetSpec, images: int) -> Score | None:
        """Return the score from the ledger of another search, or None."""
        return self.reused.get(key(spec, images))

    def add(self, candidate: Candidate) -> None:
        """Append a scored candidate to the file, unless its score is already there."""
        assert candidate.score is not None
        name = key(candidate.spec, candidate.images)
        if name in self.own:
            return
        self.own[name] = candidate.score
        if self.path is not None:
            append_line(self.path, to_json(candidate.to_dict() | {"scoring": self.scoring}))


def key(spec: SubnetSpec, images: int) -> Key:
    """Return the key of a score: canonical subnet and number of images."""
    return spec.key(), images


def in_memory(scoring: Scoring | None = None) -> Ledger:
    """Return a ledger without a file."""
    return Ledger(None, scoring or {})


def open_ledger(path: Path, scoring: Scoring, reuse: Path | None = None, is_main: bool = True) -> Ledger:
    """Open or create the ledger at ``path``. All ranks call; rank 0 reads and writes the files.

    An incomplete last line (the job was killed while writing) is removed; its candidate will be scored again.

    Args:
        path: The ledger's file.
        scoring: Settings that all scores must share.
        reuse: Ledger of another search whose scores may be reused.
        is_main: Whether this is rank 0.

    Raises:
        UserError: On all ranks: a line is invalid, or was scored with other settings.
    """

    def read() -> tuple[dict[Key, Score], dict[Key, Score]]:
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_torn_line(path)
        own = read_ledger(path, scoring, missing_ok=True)
        return _by_key(own), _by_key(read_ledger(reuse, scoring) if reuse else [])

    own, reused = from_main(read)
    return Ledger(path if is_main else None, scoring, own, reused)


def _cut_torn_line(path: Path) -> None:
    """Truncate the file after its last newline."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def _by_key(candidates: list[Candidate]) -> dict[Key, Score]:
    return {key(c.spec, c.images): c.score for c in candidates if c.score is not None}


def read_ledger(path: Path, scoring: Scoring | None = None, missing_ok: bool = False) -> list[Candidate]:
    """Return the candidates in a ledger. An incomplete last line is ignored.

    Args:
        path: The ledger's file.
        scoring: Settings that each line must have been scored with; None to accept any.
        missing_ok: Return an empty list if the file does not exist.

    Raises:
        UserError: The file does not exist, a line is invalid, or was scored with other settings.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]  # the part after the last newline is empty or incomplete
    except FileNotFoundError:
        if missing_ok:
            return []
        raise UserError(f"{path}: no such ledger") from None
    return [_parse_line(line, scoring, f"{path}: line {number}") for number, line in enumerate(lines, 1)]


def _parse_line(line: bytes, scoring: Scoring | None, location: str) -> Candidate:
    try:
        row = json.loads(line)
    except ValueError:
        raise UserError(f"{location}: not a JSON object; remove the line to score its candidate again") from None
    candidate = candidate_from_dict(row, location)
    if scoring is not None:
        _check_scoring(row.get("scoring"), scoring, location)
    return candidate


def _check_scoring(recorded: Any, expected: Scoring, location: str) -> None:
    recorded = recorded if isinstance(recorded, dict) else {}
    for name in expected:
        if recorded.get(name) != expected[name]:
            raise UserError(
                f"{location}: scored with {name} {recorded.get(name)!r}, this search has {expected[name]!r}; "
                "set another run.name, or move the ledger away"
            )
