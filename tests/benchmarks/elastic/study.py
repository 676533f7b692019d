"""The size of the study, its settings, and its files. Everything else comes from a recipe of an elastic space."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from tests.benchmarks.elastic import images
from vitas_ds import recipe
from vitas_ds.arch import genome
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.config import Config
from vitas_ds.config.limits import Limit, format_number, parse_limit
from vitas_ds.data.sampler import steps_per_epoch
from vitas_ds.run.run_dir import RunDir

SCRATCH_LR = 2e-3  # of trainings that start from random weights; the recipe's rate is one of fine-tuning
PLACES = ("data.train=", "data.val=", "run.")  # settings that the study sets itself


@dataclass(frozen=True)
class Size:
    """Numbers of seeds and images, and the settings that differ from the recipe.

    Attributes:
        seeds: Seeds of the comparison.
        train: Training images of each class.
        search: Search images of each class.
        test: Test images of each class; 0: all.
        start_epochs: Epochs of the start network.
        settings: Overrides of the recipe.
    """

    seeds: int
    train: int
    search: int
    test: int
    start_epochs: int
    settings: tuple[str, ...]


FULL = Size(
    3, 4800, 200, 0, 20,
    ("supernet.epochs=2", "search.population=20", "search.generations=10", "search.images=1000", "retrain.epochs=2"),
)  # fmt: skip
QUICK = Size(
    2, 16, 8, 8, 1,
    ("supernet.epochs=1", "supernet.batch_size=40", "supernet.lr=4e-4", "supernet.importance_images=16",
     "search.population=4", "search.generations=2", "search.images=40", "search.top_k=2",
     "retrain.epochs=1", "retrain.batch_size=40", "retrain.lr=4e-4", "retrain.warmup_epochs=0"),
)  # fmt: skip
SAME = (  # no measurements during trainings: they would cost compute that a method does not need
    "run.device=cpu", "data.threads=1", "supernet.eval_every=0", "supernet.save_minutes=2", "supernet.keep=1",
    "supernet.keep_best=false", "retrain.eval_every=0", "retrain.save_minutes=2", "retrain.keep=1",
    "retrain.keep_best=false", "evaluate.precision=fp32", "search.finalists.count=0", "search.finalists.steps=0",
)  # fmt: skip


@dataclass(frozen=True)
class Study:
    """A recipe with its overrides, a size, and the folder of all files."""

    folder: Path
    recipe: str
    overrides: tuple[str, ...]
    size: Size

    @cached_property
    def source(self) -> Config:
        """The recipe with the user's overrides: where the images are."""
        return recipe.load(self.recipe, list(self.overrides))

    @cached_property
    def config(self) -> Config:
        """The settings of the stages with seed 0."""
        return recipe.load(self.recipe, self.words(0))

    @cached_property
    def largest(self) -> SubnetSpec:
        """The start network: the largest of the space."""
        space = self.source.space
        return genome.decode(space, genome.largest(space)).canonical()

    @property
    def limits(self) -> list[Limit]:
        """The budgets."""
        return [parse_limit(text) for text in self.config.search.budgets]

    @property
    def budgets(self) -> list[str]:
        """Short names of the budgets, such as 20M."""
        return [format_number(limit.high) for limit in self.limits]

    @property
    def epoch_images(self) -> int:
        """Images of an epoch of fine-tuning: the last incomplete batch is dropped."""
        batch = self.config.retrain.batch_size
        return batch * steps_per_epoch(self.train_images, 1, batch)

    @property
    def train_images(self) -> int:
        """Number of training images."""
        return self.size.train * self.source.space.num_classes

    @property
    def search_images(self) -> int:
        """Number of search images."""
        return self.size.search * self.source.space.num_classes

    @property
    def num_test_images(self) -> int:
        """Number of test images, for the estimate of the time; those of CIFAR-10 if all are used."""
        return self.size.test * self.source.space.num_classes or 10_000

    def words(self, seed: int, *more: str) -> list[str]:
        """Return the settings of a stage; later ones win."""
        size = self.size
        places = [
            f"run.dir={self.folder / 'runs'}", f"run.seed={seed}", f"supernet.init={self.run('start').path}",
            f"data.train={self.folder / 'images' / f'train-{seed}'}", f"data.val={self._test}",
            f"data.search_per_class={size.search}", f"retrain.eval_images={self.search_images}",
        ]  # fmt: skip
        given = [word for word in self.overrides if not word.startswith(PLACES)]
        return [*SAME, *size.settings, *given, *places, *more]

    def run(self, name: str) -> RunDir:
        """Return the run of a name."""
        return RunDir(self.folder / "runs" / name)

    @property
    def _test(self) -> str:
        return str(self.folder / "images" / "test") if self.size.test else self.source.data.val

    def write_images(self) -> None:
        """Write the links to the images, unless they exist."""
        size, data = self.size, self.source.data
        for seed in range(size.seeds):
            folder = self.folder / "images" / f"train-{seed}"
            images.link_training(data.train, folder, size.train, size.search, seed)
        if size.test:
            images.link_test(data.val, Path(self._test), size.test)
        elif not Path(data.val).is_dir():
            images.read_folder(data.val)  # an error now, not after hours

    def digest(self) -> str:
        """Return a digest of the settings: rows of others do not belong into one record."""
        sections = self.config.model_dump(exclude_defaults=True)
        sections.pop("run")
        for name in ("train", "val"):
            sections["data"].pop(name)
        sections["supernet"].pop("init")
        text = json.dumps([sections, asdict(self.size), SCRATCH_LR], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
