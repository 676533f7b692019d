"""A search uses the supernet of another run if space, sharing and classes are equal.

Reference: runs whose settings differ in one known field.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.digits import write_digits
from tests.helpers.paths import FIXTURES
from vitas_ds.config import Config
from vitas_ds.errors import UserError
from vitas_ds.recipe import load
from vitas_ds.run.files import write_json
from vitas_ds.run.run_dir import RunDir, run_of
from vitas_ds.run.start import open_run
from vitas_ds.stages.common import training_images
from vitas_ds.stages.source_run import check_classes, check_source, source_run
from vitas_ds.stages.trained_supernet import supernet_path

TINY = str(FIXTURES / "tiny.yaml")


@pytest.fixture
def trained(tmp_path: Path) -> RunDir:
    """A run with the files for the checks."""
    write_digits(tmp_path / "digits", 12, 1)
    config = load(TINY, [f"run.dir={tmp_path}", f"data.train={tmp_path}/digits/train"])
    run = open_run(config, True)
    run.supernet.path.mkdir()
    run.supernet_weights.touch()
    write_json(run.classes, {str(i): i for i in range(10)})
    return run


def other(trained: RunDir, *overrides: str) -> Config:
    root = trained.path.parent
    words = [f"run.dir={root}", f"data.train={root}/digits/train", "run.name=b", f"search.checkpoint={trained.path}"]
    return load(TINY, [*words, *overrides])


def test_equal_settings(trained: RunDir) -> None:
    free = ["search.macs=[1e5, 3e5]", "search.algorithm=nsga2", "search.seed=9", "supernet.lr=1e-4"]
    fewer = ["space.embed_ratios=[1.0]", "space.min_depth=2"]
    for overrides in ([], free, fewer):
        check_source(other(trained, *overrides))
    config = other(trained)
    found = source_run(config)
    assert found and found.path == trained.path
    assert supernet_path(config, run_of(config)) == trained.supernet_weights
    check_classes(config, training_images(config))


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("space.num_classes=9", "space.num_classes=10, this search has 9"),
        ("space.depth=4", "space.depth=3, this search has 4"),
        ("space.patch_sizes=[7]", "space.patch_sizes=[7, 14], this search has [7]"),
        ("supernet.sharing=ordinal", "supernet.sharing=bilateral, this search has ordinal"),
        ("data.mean=[0.4, 0.4, 0.4]", "data.mean=[0.5, 0.5, 0.5]"),
        ("data.resize=40", "data.resize=28, this search has 40"),
        ("space.ratios=[0.25, 0.5, 1.0]", "not trained with width 8 of space.embed_dim"),
    ],
)
def test_a_supernet_of_another_space(trained: RunDir, override: str, text: str) -> None:
    with pytest.raises(UserError) as error:
        check_source(other(trained, override))
    assert text in str(error.value) and str(trained.path) in str(error.value) and "\n" not in str(error.value)


def test_not_a_run(trained: RunDir) -> None:
    with pytest.raises(UserError, match=r"search\.checkpoint: .*digits: neither a run nor a checkpoint"):
        check_source(other(trained, f"search.checkpoint={trained.path.parent}/digits"))
    trained.supernet_weights.unlink()
    with pytest.raises(UserError, match="has not trained a supernet yet"):
        check_source(other(trained))


def test_other_classes(trained: RunDir) -> None:
    config = other(trained)
    folder = Path(config.data.train)
    (folder / "3").rename(folder / "three")
    with pytest.raises(UserError, match=r"has other classes \(see 3\)"):
        check_classes(config, training_images(config))


def test_cyclic_sharing_needs_all_widths(trained: RunDir) -> None:
    """Its channels of a width depend on the other widths."""
    root, cyclic = trained.path.parent, "supernet.sharing=cyclic"
    run = open_run(load(TINY, [f"run.dir={root}", f"data.train={root}/digits/train", "run.name=c", cyclic]), True)
    run.supernet.path.mkdir()
    run.supernet_weights.touch()
    words = [f"search.checkpoint={run.path}", cyclic]
    check_source(other(trained, *words, "space.min_depth=2"))
    with pytest.raises(UserError, match=r"space\.embed_ratios=\[16, 32\], this search has \[32\]"):
        check_source(other(trained, *words, "space.embed_ratios=[1.0]"))
