"""Odd image folders: the walker must find exactly the images that a simple listing finds."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

from tests.faults.attack.cases import Score, run

NAMES = (
    "a",
    "b",
    "ä",
    "x y",
    "-rf",
    "#1",
    "<b>",
    "a\nb",
    ".hidden",
    "@eaDir",
    "__MACOSX",
    ".ipynb_checkpoints",
    "l" * 250,
)
FILES = (
    "1.jpg",
    "2.JPEG",
    "._1.jpg",
    "Thumbs.db",
    "n" * 250 + ".jpg",
    "new\nline.png",
    "note.txt",
    "s.tar.gz",
    "x.tar",
)


def attack(rng: random.Random, score: Score, images: list[bytes], folder: Path) -> None:
    """Build a random folder and list it with ``vitas index``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    expected = set()
    for name in rng.sample(NAMES, rng.randint(0, 4)):
        top = folder / name
        top.mkdir()
        for file in rng.sample(FILES, rng.randint(0, 5)):
            content = rng.choice([*images, b"", b"not an image", images[0][:50]])
            (top / file).write_bytes(content)
            visible = not name.startswith(".") and name not in ("@eaDir", "__MACOSX") and not file.startswith(".")
            if visible and file.lower().endswith((".jpg", ".jpeg", ".png")):
                expected.add(f"{name}/{file}")
        kind = rng.randint(0, 6)
        if kind == 0:
            (top / "loop").symlink_to(rng.choice((folder, top, "/no/where")))
        if kind == 1:
            os.mkfifo(top / "pipe.jpg")
        if kind == 2:
            (top / "broken.jpg").symlink_to("/no/where.jpg")
    outcome = run(["index", str(folder)], limit=30)
    wrong = []
    index = folder / "index.vitas"
    if outcome.status == 0 and index.exists():
        content = index.read_bytes()
        wrong = [f"missing {name[:50]!r}" for name in expected if os.fsencode(name) + b"\0" not in content]
        wrong = ["silent difference"] if wrong or b"._1.jpg" in content or b"pipe.jpg" in content else []
    score.add("folders", str(sorted(expected))[:200], outcome, wrong)
