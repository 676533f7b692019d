"""A few candidates, a random supernet and real digits, to train finalists without a search."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.helpers.digits import write_digits
from tests.helpers.paths import FIXTURES
from vitas_ds.arch.cost import spec_macs
from vitas_ds.config import Config
from vitas_ds.data.loader import decode_all, normalize
from vitas_ds.data.sources import hold_out, read_folder
from vitas_ds.distributed.comm import Ranks
from vitas_ds.distributed.groups import Group
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.recipe import load
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.tracker import Tracker
from vitas_ds.search.scoring.candidate import Candidate, Score
from vitas_ds.search.trials.finalists import FinalistsResult, run_finalists
from vitas_ds.search.trials.inputs import ScoringInputs
from vitas_ds.search.trials.store import Store
from vitas_ds.search.trials.training import Trial
from vitas_ds.training import sampling

ALONE = Ranks(0, 1, 0, torch.device("cpu"))


@dataclass(frozen=True)
class Setting:
    """Inputs of finalists, and candidates with decreasing scores."""

    config: Config
    inputs: ScoringInputs
    candidates: list[Candidate]

    def run(self, folder: Path, tracker: Tracker | None = None, ranks: Ranks = ALONE) -> FinalistsResult:
        """Train the finalists of the run in a folder."""
        return run_finalists(self.config, RunDir(folder), ranks, tracker or Tracker(), self.inputs, self.candidates)

    def trial(self, folder: Path, group: Group | None = None) -> Trial:
        """Return the training of the first candidate."""
        store = Store(RunDir(folder))
        store.run.finalist_states.mkdir(parents=True, exist_ok=True)
        return Trial(self.config, self.inputs, store, ALONE, group or Group(), self.candidates[0].spec, "finalist 1")


def images(folder: Path) -> Path:
    """Write digits, once per folder; return the folder of the training images."""
    root = folder / "digits"
    return (root if root.exists() else write_digits(root)) / "train"


def setting(folder: Path, *overrides: str, sharing: str = "bilateral") -> Setting:
    """Return the setting of the test recipe with overrides; images are written to ``folder``."""
    words = [f"data.train={images(folder)}", f"supernet.sharing={sharing}", *overrides]
    config = load(str(FIXTURES / "tiny.yaml"), words)
    supernet = Supernet(config.space, config.supernet.sharing, 2, class_token_only=True).eval()
    init_weights(supernet, 1, None)
    train, search = hold_out(read_folder(config.data.train), config.data.search_per_class, config.run.seed)
    pixels = decode_all(search, config.data, config.space.image_size, ALONE)
    inputs = ScoringInputs(supernet, "digest", search, pixels, partial(normalize, data=config.data), train)
    return Setting(config, inputs, candidates(config, 6))


def candidates(config: Config, count: int) -> list[Candidate]:
    """Return distinct random subnets with made-up scores, best first."""
    specs: dict[Any, None] = {}
    step = 0
    while len(specs) < count:
        specs[sampling.draw(config.space, 0, step, 0.2).canonical()] = None
        step += 1
    return [
        Candidate(spec, {"macs": spec_macs(spec)}, 1, Score(0.9 - i / 100, 0.01, 80)) for i, spec in enumerate(specs)
    ]


class Killed(Exception):
    """Stands for the death of the process."""


class DyingTracker(Tracker):
    """Raises ``Killed`` at a given call of ``progress``."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def progress(self, step: int, values: dict[str, Any], left: float) -> None:
        self.left -= 1
        if not self.left:
            raise Killed


class ListTracker(Tracker):
    """Keeps the lines and the metrics."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.logged: dict[int, dict[str, Any]] = {}
        self.left: list[float] = []

    def print(self, text: str) -> None:
        self.lines.append(text)

    def log(self, step: int, values: dict[str, Any], *, images: int = 0, left: float | None = None) -> None:
        assert step not in self.logged
        self.logged[step] = values

    def progress(self, step: int, values: dict[str, Any], left: float) -> None:
        self.left.append(left)
