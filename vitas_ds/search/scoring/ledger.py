"""The ledger of scores: every score is on disk as soon as it is known, one JSON object per line.

A score belongs to a subnet in canonical form, to the number of search images, and to the ``scoring`` settings
(supernet, images, side rule, ...) that each line repeats. Everything else may differ: a search with another budget,
algorithm or seed can reuse the scores of a ledger.
"""

from __future__ import annotations

import os
from pathlib import Path

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.distributed.comm import from_main
from vitas_ds.errors.reading import check_regular
from vitas_ds.run.files import append_line, to_json
from vitas_ds.search.scoring.candidate import Candidate, Score
from vitas_ds.search.scoring.ledger_digest import add_digest
from vitas_ds.search.scoring.ledger_lines import MOVE, LineParser, Scoring
from vitas_ds.search.scoring.ledger_reader import lines
from vitas_ds.search.scoring.score_table import ScoreTable, key

BLOCK = 1 << 20  # bytes
NOT_REUSABLE = "search.reuse needs equal supernet, images and scoring settings"


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
        own: ScoreTable | None = None,
        reused: ScoreTable | None = None,
    ) -> None:
        self.path, self.scoring = path, scoring
        self.own = ScoreTable() if own is None else own
        self.reused = ScoreTable() if reused is None else reused

    def find(self, spec: SubnetSpec, images: int) -> Score | None:
        """Return the score of a subnet on this number of images, or None if it is not known."""
        name = key(spec, images)
        return self.own.get(name) or self.reused.get(name)

    def find_reused(self, spec: SubnetSpec, images: int) -> Score | None:
        """Return the score from the ledger of another search, or None."""
        return self.reused.get(key(spec, images))

    def add(self, candidate: Candidate) -> None:
        """Append a scored candidate to the file, unless its score is already there."""
        assert candidate.score is not None
        name = key(candidate.spec, candidate.images)
        if name in self.own:
            return
        self.own.add(name, candidate.score)
        if self.path is not None:
            append_line(self.path, add_digest(to_json(candidate.to_dict() | {"scoring": self.scoring})))


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
        UserError: On all ranks: a line is invalid or was changed, or was scored with other settings.
    """

    def read() -> tuple[ScoreTable, ScoreTable]:
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_torn_line(path)
        own = _read_scores(path, scoring, missing_ok=True)
        return own, _read_scores(reuse, scoring, fix=NOT_REUSABLE) if reuse else ScoreTable()

    own, reused = from_main(read)
    return Ledger(path if is_main else None, scoring, own, reused)


def _cut_torn_line(path: Path) -> None:
    """Truncate the file after its last newline."""
    if not path.exists():
        return
    check_regular(path)
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - BLOCK)
            file.seek(start)
            if (newline := file.read(end - start).rfind(b"\n")) >= 0:
                end = start + newline + 1
                break
            end = start
        file.truncate(end)


def _read_scores(path: Path, scoring: Scoring, missing_ok: bool = False, fix: str = MOVE) -> ScoreTable:
    """Return the scores in a ledger. Does not keep its candidates: a million of them would take 4 GB."""
    parser, table = LineParser(path, scoring, fix), ScoreTable()
    for number, line in lines(path, missing_ok):
        if (found := parser.fast(line, number)) is not None:
            found.add_to(table)
            continue
        candidate = parser.slow(line, number)
        assert candidate.score is not None
        table.add(key(candidate.spec, candidate.images), candidate.score)
    return table
