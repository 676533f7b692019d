"""No code is copied within vitas_ds. Reference: the lines of the sources themselves."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from itertools import pairwise

from tests.helpers.paths import ROOT

LENGTH = 6  # identical lines in a row
SHORTEST = 4  # characters of a line; shorter lines are punctuation


def code_lines(source: str) -> list[tuple[int, str]]:
    """Return (number, text with folded whitespace) of each line except blanks, comments, imports and punctuation."""
    imports: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = ((number, re.sub(r"\s+", " ", line.strip())) for number, line in enumerate(source.splitlines(), 1))
    return [
        (number, line)
        for number, line in lines
        if len(line) >= SHORTEST and not line.startswith("#") and number not in imports
    ]


def duplicates(sources: dict[str, str]) -> list[str]:
    """Return the places of every run of LENGTH lines that occurs more than once."""
    places = defaultdict(list)
    for name, source in sources.items():
        lines = code_lines(source)
        for start in range(len(lines) - LENGTH + 1):
            window = lines[start : start + LENGTH]
            places[tuple(line for _, line in window)].append(f"{name}:{window[0][0]}-{window[-1][0]}")
    return [f"{a} = {b}" for found in places.values() for a, b in pairwise(found)]


def test_duplicates_are_found():
    """Six lines copied by hand, with another indentation, a comment and punctuation between them."""
    lines = [f"value_{i} = {i}" for i in range(6)]
    copied = [
        "if True:",
        "    # a comment",
        *(f"    {line}" for line in lines[:3]),
        "",
        "    ()",
        *(f"    {line}" for line in lines[3:]),
    ]
    sources = {"a.py": "\n".join(lines), "b.py": "\n".join(copied)}
    assert duplicates(sources) == ["a.py:1-6 = b.py:3-10"]
    assert duplicates({"a.py": "\n".join(lines), "b.py": "\n".join(lines[1:])}) == []


def test_no_six_lines_occur_twice():
    sources = {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / "vitas_ds").rglob("*.py"))}
    assert duplicates(sources) == []
