"""The study of a recipe: its subnets, image sizes and lengths.

A study takes everything from a recipe: the space, the budget (``search.macs``), the training of a subnet (``retrain``)
and of a supernet (``supernet``), and the images. It works for any ImageFolder.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from vitas_ds.arch import genome
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.config import Config
from vitas_ds.data.sources import ImageSet, fingerprint, hold_out, read_folder
from vitas_ds.search.feasible import operators
from vitas_ds.search.feasible.table import feasible_set

CIFAR10 = str(Path(__file__).with_name("cifar10.yaml"))  # the recipe of docs/cifar10.md
POOL = 300  # feasible subnets from which those of the truth are chosen
SPREAD = 0.25, 2.0  # range of the spread subnets, relative to the budget


@dataclass(frozen=True)
class Size:
    """Numbers of subnets and seeds."""

    equal: int  # subnets within the budget, the same number for each patch size
    spread: int  # subnets over a range of costs
    longer: int  # subnets within the budget that are also trained twice as long
    seeds: int
    searches: int  # seeds of the whole searches
    steps: float  # length of each training, relative to the recipe
    views: int  # augmented views of each training image
    population: int  # candidates of a generation
    generations: int
    random: tuple[int, ...]  # random networks of successive halving without a supernet, increasing
    corrected: int  # random networks of the regression that corrects scores
    fitted: int  # random networks of the regression without a supernet
    ruled: int  # random candidates of the rules


FULL = Size(
    equal=40, spread=20, longer=6, seeds=2, searches=3, steps=1.0, views=16, population=20, generations=15,
    random=(32, 96), corrected=16, fitted=22, ruled=1000,
)  # fmt: skip
SMALL = Size(
    equal=4, spread=2, longer=2, seeds=2, searches=1, steps=0.02, views=2, population=4, generations=3, random=(4, 8),
    corrected=4, fitted=6, ruled=20,
)  # fmt: skip


@dataclass(frozen=True)
class Study:
    """A recipe, and the size of its study."""

    config: Config
    size: Size

    @property
    def budget(self) -> tuple[float, float]:
        """Range of MACs of the search."""
        assert self.config.search.macs is not None
        return self.config.search.macs

    @cached_property
    def images(self) -> tuple[ImageSet, ImageSet, ImageSet]:
        """Training images, search images held out of them, and validation images, which only the truth uses."""
        data = self.config.data
        train, search = hold_out(read_folder(data.train), data.search_per_class, self.config.run.seed)
        return train, search, read_folder(data.val)

    @property
    def net_steps(self) -> int:
        """Steps of the training of a subnet alone."""
        retrain = self.config.retrain
        per_epoch = len(self.images[0]) // retrain.batch_size
        return max(2, round(self.size.steps * retrain.epochs * per_epoch))

    @cached_property
    def nets(self) -> dict[str, SubnetSpec]:
        """Subnets whose own training is the truth: ``equal NN`` within the budget, ``spread NN`` by increasing cost."""
        space, rng = self.config.space, np.random.default_rng(22)
        equal = [
            spec
            for patch in space.patch_sizes  # accuracy depends so much on the patch size that both need equal shares
            for spec in covering(
                space.model_copy(update={"patch_sizes": (patch,)}),
                self.budget,
                self.size.equal // len(space.patch_sizes),
                rng,
            )
        ]
        targets = np.geomspace(*(factor * np.mean(self.budget) for factor in SPREAD), self.size.spread)
        spread = [covering(space, (0.97 * t, 1.03 * t), 1, rng)[0] for t in targets]
        named = {f"equal {i:02}": spec for i, spec in enumerate(equal)}
        return named | {f"spread {i:02}": spec for i, spec in enumerate(spread)}

    @property
    def longer_nets(self) -> dict[str, SubnetSpec]:
        """Subnets that are also trained twice as long: evenly chosen among those within the budget."""
        names = [name for name in self.nets if name.startswith("equal")]
        chosen = [names[round(i * len(names) / self.size.longer)] for i in range(self.size.longer)]
        return {name: self.nets[name] for name in chosen}

    def digest(self, section: str) -> str:
        """Return a digest of everything in the recipe that trainings of a section depend on."""
        parts = [_changed(self.config.space), _changed(getattr(self.config, section)), self.budget, self.net_steps]
        return _digest(self._sources(), *parts)

    def images_digest(self) -> str:
        """Return a digest of everything that the images as tensors depend on."""
        config = self.config
        return _digest(self._sources(), config.space.image_size, _changed(config.retrain.augment), self.size.views)

    def _sources(self) -> list[Any]:
        data = _changed(self.config.data)
        for name in ("train", "val", "threads", "cache"):  # the folders may move
            data.pop(name, None)
        return [data, self.config.run.seed, [fingerprint(images) for images in self.images]]


def _changed(section: BaseModel) -> dict[str, Any]:
    """Return the settings that differ from their defaults: new settings of the product do not change a digest."""
    return section.model_dump(exclude_defaults=True)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def covering(space: SearchSpace, budget: tuple[float, float], count: int, rng: np.random.Generator) -> list[SubnetSpec]:
    """Return ``count`` distinct subnets within a budget that together use every choice of every gene about equally.

    Of random feasible subnets, each pick is the one whose choices the earlier picks used least.
    """
    feasible = feasible_set(space, {"macs": (int(budget[0]), int(budget[1]))})
    genomes = genome.canonical(space, operators.sample_distinct(feasible, max(POOL, count), rng))
    specs, choices = genome.decode_all(space, genomes), _choices(space, genomes)
    used, picked = np.zeros(choices.shape[1]), list[int]()
    for _ in range(count):
        gain = (choices / (1 + used)).sum(1) / choices.sum(1)
        gain[picked] = -1
        picked.append(int(gain.argmax()))
        used += choices[picked[-1]]
    return [specs[i].canonical() for i in picked]


def _choices(space: SearchSpace, genomes: np.ndarray) -> np.ndarray:
    """Return how often each genome uses each choice: stem and depth once, heads and widths as shares of the layers."""
    table = genome.width_table(space, genomes)
    depth = (table.num_heads > 0).sum(1, keepdims=True)
    columns = [table.embed_dim[:, None] == space.embed_widths, depth == np.arange(1, space.depth + 1)]
    for values, choices in (
        (table.num_heads, space.num_heads), (table.qkv_dim, space.qkv_widths), (table.mlp_dim, space.mlp_widths)
    ):  # fmt: skip
        columns.append((values[..., None] == np.array(choices)).sum(1) / depth)
    return np.concatenate(columns, 1).astype(float)
