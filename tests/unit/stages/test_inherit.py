"""Networks that keep the weights of the supernet (``retrain.epochs: 0``).

References: the pretrained network from which the supernet was filled, and the extracted subnet.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers.digits import write_digits
from tests.helpers.networks import random_network
from tests.unit.elastic.test_reorder import random_order
from tests.unit.stages.test_elastic import RECIPE, SPEC
from vitas_ds.arch import genome
from vitas_ds.config import dump
from vitas_ds.elastic.fill import fill
from vitas_ds.elastic.order import write_order
from vitas_ds.elastic.reorder import reorder
from vitas_ds.errors import UserError
from vitas_ds.export.card import read_license
from vitas_ds.export.folder import Preprocess, read_model, write_model
from vitas_ds.models.extract import extract
from vitas_ds.models.supernet import Supernet
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.recipe import load
from vitas_ds.run.files import write_json, write_tensors, write_text
from vitas_ds.run.run_dir import RunDir, run_of
from vitas_ds.run.summary import read_summary
from vitas_ds.stages import export, retrain, search
from vitas_ds.stages.network_words import network_words
from vitas_ds.stages.validate import check

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], VisionTransformer, Supernet]:
    """A run whose supernet was filled with a reordered network, and not trained."""
    folder = tmp_path_factory.mktemp("inherit")
    write_digits(folder / "digits")
    (folder / "recipe.yaml").write_text(RECIPE)
    original = random_network(SPEC)
    write_model(original, folder / "vit", Preprocess(28), "vit", {})
    words = [f"run.dir={folder}", f"data.train={folder / 'digits' / 'train'}", f"supernet.init={folder / 'vit'}"]
    words += [*network_words(str(folder / "recipe.yaml"), words), "retrain.epochs=0", "retrain.init=supernet"]
    config = load(str(folder / "recipe.yaml"), words)
    run, order = run_of(config), random_order(SPEC, 1)
    model = read_model(folder / "vit")
    reorder(model, order)
    write_model(model, run.pretrained, Preprocess(28), "pretrained", {})
    write_order(run.pretrained, order)
    supernet = Supernet(config.space, "ordinal", 0)
    fill(supernet, model.state_dict())
    tensors = {name: value.detach().clone() for name, value in supernet.state_dict().items()}
    write_tensors(run.supernet_weights, tensors, {})
    write_text(run.config, dump(config))
    return folder, words, original, supernet


def run_one(folder: Path, words: list[str], spec: dict, name: str) -> RunDir:
    write_json(folder / f"{name}.json", spec)
    words = [*words, f"retrain.spec={folder / f'{name}.json'}", f"search.checkpoint={folder / 'default'}"]
    config = load(str(folder / "recipe.yaml"), [*words, f"run.name={name}"])
    retrain.run(config)
    return run_of(config)


def test_a_subnet_keeps_the_weights_of_the_supernet(made: tuple) -> None:
    folder, words, _, supernet = made
    space = supernet.space
    spec = genome.decode(space, genome.smallest(space)).canonical()
    run = run_one(folder, words, spec.to_dict(), "small")
    expected = extract(supernet, spec).state_dict()
    found = read_model(run.retrain_model).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert read_summary(run)["retrain"]["steps"] == 0


def test_the_whole_network_has_its_original_order_again(made: tuple) -> None:
    folder, words, original, _ = made
    found = read_model(run_one(folder, words, SPEC.to_dict(), "whole").retrain_model).state_dict()
    assert all(torch.equal(found[name], value) for name, value in original.state_dict().items())


def test_the_license_of_the_initial_weights_stays(made: tuple, tmp_path: Path) -> None:
    """Of a model folder and of the network from which the supernet started; ``export.license`` wins."""
    folder, words, original, _ = made
    write_model(original, tmp_path / "vit", Preprocess(28), "vit", {}, license="cc-by-nc-4.0")
    words = [*words, "retrain.spec=init", f"retrain.init={tmp_path / 'vit'}", "run.name=licensed"]
    config = load(str(folder / "recipe.yaml"), words)
    retrain.run(config)
    run = run_of(config)
    assert read_license(run.retrain_model) == "cc-by-nc-4.0"
    for more, expected in (([], "cc-by-nc-4.0"), (["export.license=mit"], "mit")):
        export.run(load(str(folder / "recipe.yaml"), [*words, "export.timm=false", *more]))
        assert read_license(run.export) == expected
    other = [*words[:3], "run.name=copy", f"export.model={tmp_path / 'vit'}", "export.timm=false"]
    copied = load(str(folder / "recipe.yaml"), other)
    export.run(copied)
    assert read_license(run_of(copied).export) == "cc-by-nc-4.0"


def test_random_weights_and_short_trainings_are_refused(made: tuple) -> None:
    folder, words, _, _ = made
    recipe = str(folder / "recipe.yaml")
    with pytest.raises(UserError, match=r"retrain\.epochs: 0 keeps the initial weights, which are random"):
        check(load(recipe, [*words, "retrain.init=scratch"]), "retrain", 1)
    finalists = load(recipe, [*words, "search.finalists.count=2", "search.finalists.steps=9", "run.name=finalists"])
    for start in (lambda: check(finalists, "config", 1), lambda: check(finalists, "train-supernet", 1),
                  lambda: search.run(finalists)):  # fmt: skip
        with pytest.raises(UserError, match=r"retrain\.epochs: 0, but finalists and check train networks"):
            start()


def test_finalists_of_a_finished_search_do_not_forbid_inherited_weights(made: tuple) -> None:
    folder, words, _, _ = made
    finalists = ["search.finalists.count=2", "search.finalists.steps=9", "run.name=default"]
    config = load(str(folder / "recipe.yaml"), [*words, *finalists])
    assert run_of(config).supernet_weights.exists()
    check(config, "train-supernet", 1)
    check(config, "retrain", 1)
