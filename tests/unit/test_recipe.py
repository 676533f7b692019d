"""The packaged recipes have the settings of the first release, and their spaces include the networks of the paper.

Reference: numbers from the code and the paper of the first release.
"""

import json

import numpy as np
import pytest
import yaml

from vitas_ds.arch import cost, genome
from vitas_ds.arch.published import published
from vitas_ds.arch.space import SearchSpace, WidthTable
from vitas_ds.config import json_schema
from vitas_ds.recipe import RECIPES, load
from vitas_ds.stages import validate
from vitas_ds.training import sampling

ONE_G = SearchSpace()
FOUND = {"vitas_1g_bcnet": "vitas-b", "vitas_1g_autoslim": "vitas-b", "vitas_5g": "vitas-f", "vitas_cell": "vitas-c"}


@pytest.mark.parametrize("recipe", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_recipes_load_and_are_valid(recipe):
    for ranks in (1, 16):
        validate.check(load(recipe, []), "config", ranks)
    assert load(recipe, []).run.name == recipe


@pytest.mark.parametrize(("recipe", "net"), FOUND.items())
def test_the_network_of_the_paper_is_in_the_space_and_the_budget(recipe, net):
    config = load(recipe, [])
    genome.encode(config.space, published(net).spec)
    low, high = config.search.vitas_flops
    assert low <= cost.vitas_flops(WidthTable.from_specs([published(net).spec]))[0] <= high


@pytest.mark.parametrize("recipe", FOUND)
def test_settings_of_the_first_release(recipe):
    config = load(recipe, [])
    for training in (config.supernet, config.retrain):
        assert (training.epochs, training.batch_size, training.warmup_epochs) == (300, 1024, 5)
        assert (training.lr, training.min_lr, training.weight_decay) == (1e-3, 0, 0.05)
        assert (training.mixing.smoothing, training.augment.random_erasing) == (0.1, 0.25)
    weak, strong = config.supernet.augment, config.retrain.augment
    assert (weak.rand_augment, weak.color_jitter) == (None, 0)
    assert (strong.rand_augment, strong.color_jitter) == ("rand-m9-mstd0.5-inc1", 0.4)
    assert (config.supernet.mixing.mixup, config.supernet.mixing.cutmix) == (0, 1)
    assert (config.retrain.mixing.mixup, config.retrain.mixing.cutmix) == ((0.8, 1) if recipe == "vitas_5g" else (0, 0))
    assert config.retrain.drop_path_rate == 0.1
    assert (config.search.population, config.search.generations, config.search.mutation_eta) == (50, 40, 3)
    assert config.supernet.private_attention == 2
    assert config.supernet.sharing == ("ordinal" if recipe == "vitas_1g_autoslim" else "bilateral")


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_name_the_schema_and_satisfy_it(recipe):
    """A mapping satisfies the schema if each key is one of its section, as editors check it."""
    schema = json.loads((RECIPES / "schema.json").read_text())
    assert schema == json.loads(json_schema())
    assert recipe.read_text().startswith("# yaml-language-server: $schema=schema.json\n")
    for section, values in yaml.safe_load(recipe.read_text()).items():
        name = schema["properties"][section]["$ref"].rpartition("/")[2]
        assert set(values) <= set(schema["$defs"][name]["properties"])
        assert schema["$defs"][name]["additionalProperties"] is False


def test_spaces():
    assert load("vitas_1g_bcnet", []).space == load("vitas_1g_autoslim", []).space == ONE_G
    five = load("vitas_5g", []).space
    assert (five.embed_dim, five.qkv_dim, five.mlp_dim, five.depth, five.identity) == (768, 2880, 2880, 13, False)
    cell = load("vitas_cell", []).space
    assert (cell.layout, cell.patch_sizes, cell.embed_widths) == ("cell", (16,), ONE_G.embed_widths)
    assert genome.count_subnets(cell) == 10 * 4 * 10 * 10 * 16


@pytest.mark.parametrize("recipe", ["vitas_1g_bcnet", "vitas_1g_autoslim", "vitas_cell"])
def test_random_subnets_cost_the_budget_on_average(recipe):
    """``supernet.macs`` and ``search.vitas_flops`` describe the same budget, in exact MACs and first-release FLOPs."""
    config = load(recipe, [])
    prob = sampling.fit_identity_prob(config.space, *config.supernet.macs)
    rows = genome.sample(config.space, np.random.default_rng(1), 10_000, prob)
    mean = cost.vitas_flops(genome.width_table(config.space, rows)).mean()
    assert config.search.vitas_flops[0] < mean < config.search.vitas_flops[1]


def test_deit():
    retrain = load("retrain_deit", []).retrain
    assert retrain.spec == "deit-ti"
    assert (retrain.lr, retrain.batch_size, retrain.augment.aug_repeats, retrain.drop_path_rate) == (1e-3, 1024, 3, 0.1)
    assert (retrain.mixing.mixup, retrain.mixing.cutmix, retrain.mixing.switch_prob) == (0.8, 1.0, 0.5)
