"""Parse the lines of a ledger.

A ledger may have a million lines of a kilobyte. Validating each of them as JSON against the models of the spec takes
0.1 ms. A line that ``Candidate.to_dict`` wrote consists of few different pieces, though: the widths of a layer, the
image size and classes, the scoring settings. ``LineParser`` validates each distinct piece once, and compares bytes
afterwards. Any other line, such as one edited by hand, is parsed as JSON.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from vitas_ds.arch.spec import LayerSpec, SubnetSpec, spec_from_dict
from vitas_ds.errors import UserError
from vitas_ds.errors.reading import parse_json_line
from vitas_ds.search.feasible.budget import COSTS, PS_PER_SECOND
from vitas_ds.search.scoring.candidate import Candidate, Score, candidate_from_dict
from vitas_ds.search.scoring.score_table import NO_COUNTS, ScoreTable, key_of_json

Scoring = dict[str, str | int]
"""Settings that a score depends on, by name, except the subnet and the number of images."""

_INT, _FLOAT = rb"(0|[1-9]\d*)", rb"(-?(?:0|[1-9]\d*)(?:\.\d+)?(?:e[+-]?\d+)?)"
_NUMBERS = re.compile(
    b"".join(b'"%s": %s, ' % (name.encode(), _INT) for name in COSTS)
    + rb'(?:"predicted_latency": ' + _FLOAT + rb", )?"
    + rb'"score": ' + _FLOAT + rb', "stderr": (?:null|' + _FLOAT + rb'), "images": ' + _INT
    + rb'(?:, "counts": \[' + b", ".join([_INT] * 4) + rb"\])?"
    + rb'(?:, "points": "(\d+)")?'
    + rb', "generation": ' + _INT + rb', "seconds": ' + _FLOAT + b", "
)  # fmt: skip
_START, _LAYERS, _END = b'{"spec": ', b'"layers": [{', b"}]}, "
LATER = {"data.resize", "data.mean", "data.std", "supernet.sharing", "space.elastic.drop_order"}  # not in old lines
MOVE = "set another run.name, or move the ledger away"
SCORE = slice(len(COSTS) + 1, -2)  # groups of value, standard error, images, four counts, points
MAX_LAYERS = 1000  # of a spec, as in arch/spec.py
_PLAIN_LAYER = {"num_heads": 1, "qkv_dim": 3, "mlp_dim": 1}
_PLAIN_SPEC = {"image_size": 1, "patch_size": 1, "embed_dim": 1, "num_classes": 1}


class Line(NamedTuple):
    """A line parsed without JSON.

    Attributes:
        spec: The spec's JSON in canonical form.
        head: Fields of the spec without its layers.
        layers: JSON of each layer.
        numbers: Groups of ``_NUMBERS``.
    """

    spec: bytes
    head: bytes
    layers: list[bytes]
    numbers: tuple[Any, ...]

    def score(self) -> Score:
        """Return the score."""
        value, stderr, images, *counts, points = self.numbers[SCORE]
        return Score(
            float(value), None if stderr is None else float(stderr), int(images),
            None if counts[0] is None else tuple(map(int, counts)),  # type: ignore[arg-type]
            None if points is None else points.decode(),
        )  # fmt: skip

    def add_to(self, table: ScoreTable) -> None:
        """Add the score to a table. Does not create a ``Score``: opening a ledger calls this a million times."""
        value, stderr, images, first, second, third, fourth, points = self.numbers[SCORE]
        name = key_of_json(self.spec, images)
        counts = NO_COUNTS if first is None else (int(first), int(second), int(third), int(fourth))
        table.append(name, float(value), math.nan if stderr is None else float(stderr), int(images), counts)
        if points is not None:
            table.set_points(name, points.decode())


class LineParser:
    """Parses lines of one ledger.

    Args:
        path: The ledger, for messages.
        scoring: Settings that each line must have been scored with; None to accept any.
        fix: What to do if they differ, for the message.
    """

    def __init__(self, path: Path, scoring: Scoring | None = None, fix: str = MOVE) -> None:
        self.path, self.scoring, self.fix = path, scoring, fix
        self._heads: dict[bytes, SubnetSpec | None] = {}
        self._layers: dict[bytes, LayerSpec] = {}
        self._seen: set[bytes] = set()  # keys of _layers, unless a new line contains others
        self._settings: set[bytes] = set()

    def fast(self, line: bytes, number: int) -> Line | None:
        """Return the pieces of a line in the form that ``Candidate.to_dict`` has; None for any other line.

        Raises:
            UserError: The line was scored with other settings.
        """
        head, _, rest = line.partition(_LAYERS)
        text, _, tail = rest.partition(_END)
        layers = text.split(b"}, {")
        numbers = _NUMBERS.match(tail)
        if numbers is None or not self._known_spec(head, layers):
            return None
        points = numbers[numbers.re.groups - 2]
        if points is not None and len(points) != int(numbers[len(COSTS) + 4]):
            return None
        if not self._known_settings(tail[numbers.end() :], number):
            return None
        spec = line[len(_START) : len(head) + len(_LAYERS) + len(text) + 3]
        return Line(spec, head, layers, numbers.groups())

    def candidate(self, line: bytes, number: int) -> Candidate:
        """Return the candidate of a line.

        Raises:
            UserError: The line is invalid, or was scored with other settings.
        """
        found = self.fast(line, number)
        return self.slow(line, number) if found is None else self._candidate(found)

    def slow(self, line: bytes, number: int) -> Candidate:
        """Return the candidate of any line, as ``candidate``."""
        location = self._location(number)
        try:
            row = parse_json_line(line)
        except ValueError:
            raise UserError(f"{location}: not a JSON object; remove the line to score its candidate again") from None
        candidate = candidate_from_dict(row, location)
        if self.scoring is not None:
            _check_scoring(row.get("scoring"), self.scoring, location, self.fix)
        return candidate

    def _location(self, number: int) -> str:
        return f"{self.path}: line {number}"

    def _candidate(self, line: Line) -> Candidate:
        head = self._heads[line.head]
        assert head is not None
        layers = tuple(self._layers[piece] for piece in line.layers)
        spec = replace(head, layers=layers)
        costs = {name: int(number) for name, number in zip(COSTS, line.numbers, strict=False)}
        if (latency := line.numbers[len(COSTS)]) is not None:
            costs["latency"] = round(float(latency) * PS_PER_SECOND)
        generation, seconds = line.numbers[-2:]
        return Candidate(spec, costs, int(generation), line.score(), float(seconds))

    def _known_spec(self, head: bytes, layers: list[bytes]) -> bool:
        """Return whether all pieces of a spec are valid, and in canonical form."""
        if head not in self._heads:
            self._heads[head] = _parse_head(head)
        self._seen.update(layers)
        if len(self._seen) > len(self._layers) and not self._parse_layers(layers):
            return False
        return self._heads[head] is not None and len(layers) <= MAX_LAYERS

    def _parse_layers(self, layers: list[bytes]) -> bool:
        """Parse the new pieces among ``layers``. Return whether all are valid."""
        for piece in layers:
            if piece not in self._layers:
                layer = _parse_layer(piece)
                if layer is None:
                    self._seen = set(self._layers)
                    return False
                self._layers[piece] = layer
        return True

    def _known_settings(self, text: bytes, number: int) -> bool:
        """Return whether the rest of a line contains the settings of its score.

        Raises:
            UserError: They differ from those expected.
        """
        if text in self._settings:
            return True
        try:
            row = parse_json_line(b"{" + text)
        except ValueError:
            return False
        if self.scoring is not None:
            _check_scoring(row.get("scoring"), self.scoring, self._location(number), self.fix)
        if row.keys() != {"scoring"}:
            return False
        self._settings.add(text)
        return True


def _parse_head(head: bytes) -> SubnetSpec | None:
    """Return a spec with the fields of ``head`` and one layer, or None if the fields are not in canonical form."""
    spec = _parse_spec(head.removeprefix(_START) + _LAYERS + json.dumps(_PLAIN_LAYER).encode()[1:] + b"]}")
    return spec if spec and head.startswith(_START) else None


def _parse_layer(piece: bytes) -> LayerSpec | None:
    """Return a layer, or None if its JSON is not in canonical form."""
    fields = json.dumps(_PLAIN_SPEC).encode()[:-1]
    spec = _parse_spec(fields + b", " + _LAYERS + piece + b"}]}")
    return spec.layers[0] if spec and spec.depth == 1 else None


def _parse_spec(text: bytes) -> SubnetSpec | None:
    try:
        spec = spec_from_dict(parse_json_line(text))
    except (ValueError, UserError):
        return None
    return spec if json.dumps(spec.to_dict()).encode() == text else None


def _check_scoring(recorded: Any, expected: Scoring, location: str, fix: str) -> None:
    recorded = recorded if isinstance(recorded, dict) else {}
    for name in expected:
        if recorded.get(name, expected[name] if name in LATER else None) != expected[name]:
            raise UserError(
                f"{location}: scored with {name} {recorded.get(name)!r}, this search has {expected[name]!r}; {fix}"
            )
