"""The ledger: every score on disk the moment it is known, one JSON object a line.

A score belongs to a net in canonical form, to the number of search images it was measured on, and to the ``scoring``
settings (which supernet, which images, which rule) that each line repeats. Nothing else matters for reuse: another
budget, another algorithm or another seed may take its scores from the same ledger.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitas_ds.arch.space import columns_of
from vitas_ds.arch.spec import SubnetSpec, spec_from_dict
from vitas_ds.distributed.comm import from_main
from vitas_ds.errors import UserError
from vitas_ds.run.files import to_json
from vitas_ds.search.feasible.budget import COSTS, PICO

Scoring = dict[str, str | int]
"""What a score depends on beside the net and the number of images, by name."""

Key = tuple[str, int]


@dataclass(frozen=True)
class Score:
    """An accuracy in [0, 1], its standard error, and the number of search images behind it (0: does not apply).

    ``counts`` are the integers it was computed from, see ``score_of``; ``points`` those of each image, a digit each,
    where a race will compare nets on the same images.
    """

    value: float
    stderr: float | None = None
    images: int = 0
    counts: tuple[int, int, int, int] | None = None
    points: str | None = None

    def __float__(self) -> float:
        return self.value


def score_of(points: int, squares: int, images: int, chances: int) -> Score:
    """The score of counted points: an image has a point for each side that is right, of ``chances / images`` sides.

    ``squares`` is the sum of the images' squared points. The value is the mean share of points, with its error.
    """
    sides, mean = chances // images, points / chances
    spread = max(squares / (images * sides**2) - mean**2, 0.0)
    return Score(mean, math.sqrt(spread / max(images - 1, 1)), images, (points, squares, images, chances))


@dataclass(frozen=True)
class Entry:
    """A scored candidate. ``generation`` counts from 1; ``seconds`` is what its score took (0: it was known)."""

    spec: SubnetSpec
    costs: dict[str, int]  # of budget.COSTS, and maybe latency: predicted picoseconds
    score: Score
    generation: int
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As a line of the ledger and an item of ``pareto.json`` and ``best.json``; a latency is in seconds there."""
        score = {"score": self.score.value, "stderr": self.score.stderr, "images": self.score.images}
        counts = {"counts": list(self.score.counts)} if self.score.counts else {}
        points = {"points": self.score.points} if self.score.points else {}
        when = {"generation": self.generation, "seconds": round(self.seconds, 6)}
        return {"spec": self.spec.to_dict(), **self.told_costs(), **score, **counts, **points, **when}

    def told_costs(self) -> dict[str, int | float]:
        """The costs as they are told: a latency is predicted, and in seconds."""
        costs: dict[str, int | float] = {name: value for name, value in self.costs.items() if name != "latency"}
        return costs | ({"predicted_latency": self.costs["latency"] / PICO} if "latency" in self.costs else {})


def entry_from_dict(line: dict[str, Any], where: str) -> Entry:
    """The entry that ``to_dict`` wrote; a cost that is not in it is counted. Raises ``UserError`` if it is none."""
    try:
        spec = spec_from_dict(line["spec"], where)
        costs = {
            name: int(line[name]) if name in line else int(count(columns_of([spec]))[0])
            for name, count in COSTS.items()
        }
        if "predicted_latency" in line:
            costs["latency"] = round(line["predicted_latency"] * PICO)
        stderr = None if line["stderr"] is None else float(line["stderr"])
        counts = tuple(map(int, line["counts"])) if "counts" in line else None
        points = line.get("points")
        if points is not None and (len(points) != line["images"] or not points.isdecimal()):
            raise ValueError("points must be a digit for each image")
        score = Score(float(line["score"]), stderr, int(line["images"]), counts, points)  # type: ignore[arg-type]
        return Entry(spec, costs, score, int(line["generation"]), float(line["seconds"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where}: not an entry of a ledger ({type(error).__name__}: {error})") from None


class Ledger:
    """The scores that are known, and the file they go to (None: memory only; on other ranks than 0 too)."""

    def __init__(self, path: Path | None, scoring: Scoring, own: dict[Key, Score], borrowed: dict[Key, Score]) -> None:
        """See ``open_ledger``."""
        self.path, self.scoring, self.own, self.borrowed = path, scoring, own, borrowed

    def find(self, spec: SubnetSpec, images: int) -> Score | None:
        """The score of a net on so many images, if it is known."""
        return self.own.get(key(spec, images), self.borrowed.get(key(spec, images)))

    def add(self, entry: Entry) -> None:
        """Write a new score; one that is in the file already is left alone."""
        if key(entry.spec, entry.score.images) in self.own:
            return
        self.own[key(entry.spec, entry.score.images)] = entry.score
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(to_json(entry.to_dict() | {"scoring": self.scoring}) + "\n")
                file.flush()
                os.fsync(file.fileno())


def key(spec: SubnetSpec, images: int) -> Key:
    """What a score is filed under: a canonical net and a number of images."""
    return spec.key(), images


def in_memory(scoring: Scoring | None = None) -> Ledger:
    """A ledger without a file."""
    return Ledger(None, scoring or {}, {}, {})


def open_ledger(path: Path, scoring: Scoring, reuse: Path | None = None, is_main: bool = True) -> Ledger:
    """The ledger at ``path``, new or gone on with, and the scores of another. All ranks call; rank 0 reads and writes.

    A last line without its end (the job was killed as it wrote) is cut off, its candidate will be scored again.

    Raises:
        UserError: on all ranks: a line is broken, or was scored with another supernet, other images or another rule.
    """

    def read() -> tuple[dict[Key, Score], dict[Key, Score]]:
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_torn_line(path)
        own, borrowed = read_entries(path, scoring, missing_ok=True), read_entries(reuse, scoring) if reuse else []
        return _by_key(own), _by_key(borrowed)

    own, borrowed = from_main(read)
    return Ledger(path if is_main else None, scoring, own, borrowed)


def _cut_torn_line(path: Path) -> None:
    """Shorten the file to its last end of line."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def _by_key(entries: list[Entry]) -> dict[Key, Score]:
    return {key(entry.spec, entry.score.images): entry.score for entry in entries}


def read_entries(path: Path, scoring: Scoring | None = None, missing_ok: bool = False) -> list[Entry]:
    """The entries of a ledger's whole lines; ``scoring`` (if given) must be that of each.

    Raises:
        UserError: the file is missing, a line is broken, or was scored with other settings.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last end of line is empty or torn
    except FileNotFoundError:
        if missing_ok:
            return []
        raise UserError(f"{path}: no such ledger") from None
    entries = []
    for number, text in enumerate(lines, 1):
        where = f"{path}: line {number}"
        try:
            line = json.loads(text)
        except ValueError:
            raise UserError(f"{where}: not a JSON object; remove the line to score its candidate again") from None
        entries.append(entry_from_dict(line, where))
        if scoring is not None:
            _check_scoring(line.get("scoring"), scoring, where)
    return entries


def _check_scoring(theirs: Any, ours: Scoring, where: str) -> None:
    theirs = theirs if isinstance(theirs, dict) else {}
    for name in ours:
        if theirs.get(name) != ours[name]:
            raise UserError(
                f"{where}: scored with {name} {theirs.get(name)!r}, this search has {ours[name]!r}; "
                "give another run.name, or move the ledger away"
            )
