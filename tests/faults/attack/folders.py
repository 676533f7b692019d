"""Odd image folders: ``vitas index`` must list what a simple listing finds, and training must say what is wrong."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

from tests.faults.attack.cases import Outcome, Score, run
from tests.faults.attack.finished import Finished

NAMES = ("a", "b", "ä", "x y", "-rf", "#1", "<b>", "a\nb", ".hidden", "@eaDir", "__MACOSX", ".ipynb_checkpoints",
         "l" * 250, b"\xff".decode(errors="surrogateescape"))  # fmt: skip
FILES = ("1.jpg", "2.JPEG", "._1.jpg", "Thumbs.db", "n" * 250 + ".jpg", "new\nline.png", "note.txt", "s.tar.gz",
         "x.tar")  # fmt: skip
HIDDEN = ("@eaDir", "__MACOSX")


def make(rng: random.Random, folder: Path, contents: list[bytes]) -> set[str]:
    """Fill a folder. Return the names of its images."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    expected = set()
    for name in rng.sample(NAMES, rng.randint(0, 4)):
        top = folder / name
        top.mkdir()
        for file in rng.sample(FILES, rng.randint(0, 5)):
            (top / file).write_bytes(rng.choice(contents))
            visible = not name.startswith(".") and name not in HIDDEN and not file.startswith(".")
            if visible and file.lower().endswith((".jpg", ".jpeg", ".png")):
                expected.add(f"{name}/{file}")
        kind = rng.randint(0, 6)
        if kind == 0:
            (top / "loop").symlink_to(rng.choice((folder, top, "/no/where")))
        if kind == 1:
            os.mkfifo(top / "pipe.jpg")
    return expected


def attack(rng: random.Random, score: Score, finished: Finished) -> None:
    """Build a random folder; list it with ``vitas index``, and scan it or train with it."""
    image, folder = finished.image.read_bytes(), finished.disk / "odd"
    expected = make(rng, folder, [image, image, image, b"", b"not an image", image[:50], b"x" * 5000])
    what = str(sorted(expected))[:200]
    outcome = run(["index", str(folder)], limit=30)
    score.add("image folders", f"index {what}", outcome, _wrong_index(outcome, folder, expected), allowed={0, 2})
    if rng.random() < 0.5:
        outcome = run(["scan", str(folder), "--decode"], limit=30)
        score.add("image folders", f"scan {what}", outcome, allowed={0, 1, 2})
    else:
        finished.put(0)
        classes = max(1, len({name.partition("/")[0] for name in expected}))
        sizes = [f"space.num_classes={classes}", "supernet.batch_size=1", "data.search_per_class=0"]
        outcome = run([*finished.argv("train-supernet"), f"data.train={folder}", *sizes], limit=60)
        score.add("image folders", f"train {what}", outcome, allowed={0, 2})


def _wrong_index(outcome: Outcome, folder: Path, expected: set[str]) -> list[str]:
    index = folder / "index.vitas"
    if outcome.status or not index.exists():
        return []
    names = {name for name in index.read_bytes().split(b"\0") if name.lower().endswith((b".jpg", b".jpeg", b".png"))}
    return [] if names == {os.fsencode(name) for name in expected} else ["silent difference: names"]
