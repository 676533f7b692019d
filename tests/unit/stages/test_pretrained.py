"""Supernets that start from a pretrained network. References: that network, a second run, and timm."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.helpers.digits import write_digits
from tests.helpers.networks import random_network
from tests.helpers.paths import FIXTURES
from tests.helpers.timm_networks import randomize
from vitas_ds.arch import genome
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.config import Config
from vitas_ds.distributed import comm
from vitas_ds.elastic.order import read_order
from vitas_ds.elastic.scores import read_scores
from vitas_ds.engine.peak import training_flops
from vitas_ds.errors import UserError
from vitas_ds.export.folder import Preprocess, read_model, write_model
from vitas_ds.models.extract import extract
from vitas_ds.recipe import load
from vitas_ds.run.metrics import read_metrics
from vitas_ds.run.run_dir import read_config, run_of
from vitas_ds.run.start import open_run
from vitas_ds.stages import train_supernet
from vitas_ds.stages.common import split_training_images
from vitas_ds.stages.elastic_space import load_with_order, with_drop_order
from vitas_ds.stages.initial_weights import make_init
from vitas_ds.stages.trained_supernet import load_supernet
from vitas_ds.stages.validate import check

LAYERS = (LayerSpec(3, 36, 24),) * 3
SPEC = SubnetSpec(28, 7, 16, 10, LAYERS, prefix_tokens=2, classifiers=2, layer_scale=True)
SPACE = {
    "image_size": 28, "num_classes": 10, "patch_sizes": [7], "embed_dim": 16, "depth": 3, "num_heads": [1, 2, 3],
    "qkv_dim": 36, "mlp_dim": 24, "ratios": [0.5, 1.0], "embed_ratios": [0.75, 1.0], "min_depth": 2,
    "elastic": {"head_dim": 4, "prefix_tokens": 2, "classifiers": 2, "layer_scale": True},
}  # fmt: skip
SETTINGS = {
    "supernet.sharing": "ordinal", "supernet.private_attention": 0, "supernet.sampling": "sandwich",
    "supernet.random_subnets": 1, "supernet.open": 0.5, "supernet.teacher": "{model: init, weight: 1.0}",
    "supernet.importance_images": 20, "supernet.eval_every": 0, "supernet.lr": 1e-3, "search.macs": "null",
}  # fmt: skip


FROZEN = ["supernet.lr=1e-30", "supernet.epochs=1", "supernet.weight_decay=0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("elastic")
    write_digits(folder / "digits")
    export(folder / "net", SPEC)
    return folder


def export(folder: Path, spec: SubnetSpec, mean: float = 0.5, facts: dict | None = None, classes: str = "") -> None:
    preprocess = Preprocess(28, (mean,) * 3, (0.5,) * 3, classes=tuple(classes))
    write_model(random_network(spec), folder, preprocess, "net", facts or {})


def config_of(folder: Path, name: str, *words: str, init: str = "net") -> Config:
    space = [f"space.{key}={json.dumps(x)}" for key, x in SPACE.items()]
    settings = [f"{key}={value}" for key, value in SETTINGS.items()]
    start = init if init.startswith("timm:") else str(folder / init)
    run = [f"run.dir={folder}/runs", f"run.name={name}", f"data.train={folder}/digits/train", f"supernet.init={start}"]
    return load(str(FIXTURES / "tiny.yaml"), [*run, *space, *settings, *words])


def logits(model, images):
    with torch.no_grad():
        return model(images)


@pytest.fixture(scope="module")
def trained(folder) -> Config:
    config = config_of(folder, "trained")
    check(config, "train-supernet", 1)
    train_supernet.run(config)
    return config


def test_the_run_has_the_reordered_network_its_importance_and_the_drop_order(folder, trained):
    run, images = run_of(trained), torch.randn(2, 3, 28, 28)
    model, original = read_model(run.pretrained), read_model(folder / "net")
    assert (logits(model, images) - logits(original, images)).abs().max() < 1e-4 * logits(original, images).abs().max()
    scores, order = read_scores(run.importance), read_order(run.pretrained, SPEC)
    assert scores.images == 20 and (np.diff(np.array(scores.embedding)[list(order.embedding)]) <= 0).all()
    drop = read_config(run).space.elastic.drop_order
    assert drop == with_drop_order(trained).space.elastic.drop_order and trained.space.elastic.drop_order is None
    changes = [scores.layers[i].change for i in drop]
    assert changes == sorted(changes) and sorted(drop) == [0, 1, 2]
    assert "SHA-256" in (run.pretrained / "README.md").read_text()


def test_the_first_step_uses_the_logits_of_the_pretrained_network(folder, trained):
    """The loss of the largest subnet is the cross-entropy of the pretrained network; later weights differ."""
    supernet, _ = load_supernet(read_config(run_of(trained)), run_of(trained))
    largest = genome.decode(supernet.space, genome.largest(supernet.space))
    images, original = torch.randn(2, 3, 28, 28), read_model(folder / "net")
    difference = (logits(extract(supernet, largest), images) - logits(original, images)).abs().max()
    assert 1e-3 < difference < 1
    frozen = config_of(folder, "frozen", *FROZEN)
    train_supernet.run(frozen)
    supernet, _ = load_supernet(read_config(run_of(frozen)), run_of(frozen))
    got = logits(extract(supernet, largest), images)
    assert (got - logits(original, images)).abs().max() < 1e-4 * got.abs().max()


def test_the_order_of_dropped_layers_follows_the_supernet(folder, trained, tmp_path, monkeypatch):
    """By its run, its weights or a checkpoint in it; weights elsewhere need the order."""
    run = run_of(trained)
    order, step = read_config(run).space.elastic.drop_order, max(run.supernet.checkpoints.iterdir())
    for checkpoint in (run.path, run.supernet_weights, step, run.supernet.checkpoints):
        config = with_drop_order(config_of(folder, "other", f"search.checkpoint={checkpoint}"))
        assert config.space.elastic.drop_order == order
    shutil.copy(run.supernet_weights, tmp_path / "weights.safetensors")
    words = f"search.checkpoint={tmp_path}/weights.safetensors", "space.elastic.drop_order=[2,0]"
    config = with_drop_order(config_of(folder, "other", words[0]))
    with pytest.raises(UserError, match=r"in no run that tells the order .* or set space\.elastic\.drop_order$"):
        load_supernet(config, run_of(config))
    config = with_drop_order(config_of(folder, "other", *words))
    assert load_supernet(config, run_of(config))[0].space.elastic.drop_order == (2, 0)
    other = (order[1], order[0], *order[2:])
    config = config_of(folder, "other", f"search.checkpoint={step}", f"space.elastic.drop_order={[*other]}")
    with pytest.raises(UserError, match=r"has space\.elastic\.drop_order=.*, this search has .*; set it as in .*yaml$"):
        load_supernet(with_drop_order(config), run_of(config))
    monkeypatch.chdir(run.supernet.checkpoints)
    assert with_drop_order(config_of(folder, "other")).space.elastic.drop_order is None


def test_a_measured_order_is_not_that_of_another_network(folder, trained):
    """The run that serves as a recipe has the order among its settings."""
    run = run_of(trained)
    order, recipe = read_config(run).space.elastic.drop_order, str(run.path)
    assert load(recipe, []).space.elastic.drop_order == order
    assert load_with_order(recipe, []).space.elastic.drop_order == order
    other = ["run.name=another", f"supernet.init={folder}/net"]
    assert load_with_order(recipe, other).space.elastic.drop_order is None
    assert load_with_order(recipe, [*other, "space.elastic.drop_order=[1]"]).space.elastic.drop_order == (1,)
    assert load_with_order(recipe, [*other, f"search.checkpoint={run.path}"]).space.elastic.drop_order == order
    unsorted = "supernet.importance_images=0"
    assert load_with_order(recipe, [unsorted]).space.elastic.drop_order is None
    given = f"space.elastic.drop_order={[*order]}"
    config = load_with_order(recipe, ["run.name=given", unsorted, given, *FROZEN])
    assert config.space.elastic.drop_order == order
    train_supernet.run(config)
    assert read_config(run_of(config)).space.elastic.drop_order == order and not run_of(config).importance.exists()


def test_a_resumed_training_is_bitwise_equal(folder, trained):
    """A second run loses its last checkpoint; the recipe does not name the measured drop order."""
    twin = config_of(folder, "twin")
    train_supernet.run(twin)
    run = run_of(twin)
    first, last = sorted(run.supernet.checkpoints.glob("step-*"))[-2:]
    shutil.rmtree(last)
    run.supernet_weights.unlink()
    before = run.importance.stat().st_mtime_ns
    train_supernet.run(with_drop_order(twin))
    assert first.name < last.name and run.importance.stat().st_mtime_ns == before
    assert run.importance.read_bytes() == run_of(trained).importance.read_bytes()
    for row in (row for row in read_metrics(run) if "images_per_s" in row):  # also the first one after the resume
        assert row["images_per_s"] * row["step_seconds"] == pytest.approx(twin.supernet.batch_size)
    assert run.supernet_weights.read_bytes() == run_of(trained).supernet_weights.read_bytes()


def test_the_smallest_subnet_shrinks_and_the_cost_of_the_teacher_counts(trained):
    rows = [row for row in read_metrics(run_of(trained)) if "smallest_macs" in row]
    macs = [row["smallest_macs"] for row in rows]
    assert macs == sorted(macs, reverse=True) and macs[0] > macs[-1]
    config, images = with_drop_order(trained), split_training_images(trained)[0]
    task = train_supernet.make_task(config, run_of(trained), comm.init("cpu"), images)
    patches, tokens, D = 16, 18, 16
    layer = tokens * D * 36 + 2 * tokens**2 * 12 + tokens * 12 * D + 2 * tokens * D * 24
    assert task.teacher_macs == patches * 3 * 49 * D + 3 * layer + 2 * D * 10
    macs = sum(spec_macs(spec) for spec in task.subnets(0))
    assert training_flops(task.subnets(0), 1, 8, task.teacher_macs) == 8 * (6 * macs + 2 * task.teacher_macs)


def test_a_found_subnet_can_be_retrained_with_its_weights(trained):
    config = with_drop_order(trained)
    supernet, _ = load_supernet(config, run_of(config))
    spec = genome.decode(config.space, genome.smallest(config.space))
    retrain = config.model_copy(update={"retrain": config.retrain.model_copy(update={"init": "supernet"})})
    model = random_network(spec)
    make_init(retrain, run_of(config), model, split_training_images(config)[0], comm.init("cpu"))()
    images = torch.randn(2, 3, 28, 28)
    torch.testing.assert_close(logits(model, images), logits(lambda x: supernet(x, spec)[0], images))


@pytest.mark.parametrize("sharing", ["ordinal", "bilateral"])
def test_a_state_dict_of_timm(folder, sharing):
    small = {"depth": 3, "embed_dim": 12, "num_heads": 3, "img_size": 28, "patch_size": 7, "mlp_ratio": 2}
    reference = randomize(timm.create_model(
        "deit_tiny_distilled_patch16_224", num_classes=10, **small
    ))  # fmt: skip
    weights = folder / f"{sharing}.safetensors"
    save_file(reference.state_dict(), weights)
    words = ["space.embed_dim=12", "space.elastic.layer_scale=false", f"supernet.weights={weights}", *FROZEN]
    words += [f"supernet.sharing={sharing}", "data.mean=[0.485,0.456,0.406]", "data.std=[0.229,0.224,0.225]"]
    with pytest.MonkeyPatch.context() as patch:
        original = timm.create_model
        patch.setattr(timm, "create_model", lambda name, **options: original(name, **options | small))
        config = config_of(folder, f"timm_{sharing}", *words, init="timm:deit_tiny_distilled_patch16_224")
        check(config, "train-supernet", 1)
        train_supernet.run(config)
    supernet, _ = load_supernet(read_config(run_of(config)), run_of(config))
    largest = genome.decode(supernet.space, genome.largest(supernet.space))
    images = torch.randn(2, 3, 28, 28)
    expected = logits(reference, images)
    for got in logits(lambda x: supernet(x, largest), images):
        assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    ("words", "init", "message"),
    [
        (["space.num_heads=[1,2]", "space.qkv_dim=24"], "net", "net has num_heads 3, the largest network of the space "
         "2; set space.num_heads"),
        (["space.depth=4"], "net", "has depth 3, the largest network of the space 4; set space.depth"),
        (["space.elastic.layer_scale=false"], "net", "has layer_scale True, .* False; set space.elastic.layer_scale"),
        (["space.elastic.norm_eps=1e-5"], "net", "has norm_eps 1e-06, .* 1e-05; set space.elastic.norm_eps"),
        (["data.mean=[0.1,0.1,0.1]"], "net", r"trained with mean \[0.5, 0.5, 0.5\], data.mean is \[0.1, 0.1, 0.1\]"),
        ([], "nowhere", "supernet.init: .*nowhere: not the folder of an exported model or of a run"),
        ([], "timm:deit_tiny_patch16_224", "give the file of its weights: supernet.weights=FILE"),
        (["supernet.weights=nowhere"], "timm:deit_tiny_patch16_224", "supernet.weights: nowhere: no such file"),
        (["space.elastic.head_dim=null", "space.elastic.prefix_tokens=1", "space.elastic.classifiers=1",
          "space.elastic.layer_scale=false"], "net", "the space has no pretrained network as its largest subnet"),
        (["search.budgets=[1G]"], "net", r"search.budgets: macs<=1G: above the largest .* between [\d,]+ and [\d,]+"),
        (["search.macs=[1e9,2e9]"], "net", r"no network .*; all networks have macs [\d,]+ to [\d,]+$"),
        (["search.macs=[1,2]"], "net", r"no network .*; all networks have macs [\d,]+ to [\d,]+$"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(folder, words, init, message):
    config = config_of(folder, "wrong", *words, init=init)
    with pytest.raises(UserError, match=message) as error:
        check(config, "train-supernet", 1)
        train_supernet.run(config)
    assert "\n" not in str(error.value)


def test_an_untrained_classifier_is_refused(folder):
    export(folder / "new", SPEC, facts={"classifier": "new, of 10 classes, not trained"})
    with pytest.raises(UserError, match="its classifier is not trained; fine-tune it first"):
        train_supernet.run(config_of(folder, "untrained", init="new"))


def test_a_refused_start_does_not_bind_the_run_to_its_images(folder):
    """The second start has the folder that the network was trained on."""
    export(folder / "named", SPEC, classes="0123456789")
    shutil.copytree(folder / "digits" / "train", folder / "renamed")
    (folder / "renamed" / "9").rename(folder / "renamed" / "nine")
    with pytest.raises(UserError, match="was trained on other classes than those in"):
        train_supernet.run(config_of(folder, "corrected", f"data.train={folder}/renamed", init="named"))
    corrected = config_of(folder, "corrected", *FROZEN, init="named")
    train_supernet.run(corrected)
    assert (run_of(corrected).supernet.path / "inputs.json").exists() and run_of(corrected).supernet_weights.exists()


def test_settings_without_effect_give_a_warning(folder):
    config = load(str(FIXTURES / "tiny.yaml"), ["supernet.importance_images=3"])
    with pytest.warns(UserWarning, match="supernet.importance_images is ignored: supernet.init is scratch"):
        check(config, "config", 1)
    with pytest.raises(UserError, match=r"init is the network of supernet\.init, which is scratch"):
        check(load(str(FIXTURES / "tiny.yaml"), ["supernet.teacher.model=init"]), "config", 1)


@pytest.mark.parametrize("stage", ["train-supernet", "search", "retrain", "config"])
def test_a_teacher_of_retrain_that_does_not_exist_is_an_error_at_the_start(folder, tmp_path, stage):
    words = ["retrain.teacher.model=init", f"run.dir={tmp_path}", "data.synthetic=true"]
    with pytest.raises(UserError, match=r"^retrain\.teacher\.model: init is the network of supernet\.init, which is"):
        check(load(str(FIXTURES / "tiny.yaml"), words), stage, 1)
    check(config_of(folder, "teacher", "retrain.teacher.model=init", "data.synthetic=true"), stage, 1)


@pytest.mark.parametrize("stage", ["search", "retrain"])
def test_the_teacher_of_retrain_is_that_of_the_supernet_searched(tmp_path, stage):
    other = open_run(load(str(FIXTURES / "tiny.yaml"), [f"run.dir={tmp_path}", "run.name=other"]), is_main=True)
    other.supernet_weights.parent.mkdir(parents=True)
    other.supernet_weights.touch()
    words = ["retrain.teacher.model=init", f"run.dir={tmp_path}", "data.synthetic=true"]
    words.append(f"search.checkpoint={other.path}")
    with pytest.raises(UserError, match=r"^retrain\.teacher\.model: init: search\.checkpoint=.* has no pretrained"):
        check(load(str(FIXTURES / "tiny.yaml"), words), stage, 1)
    other.pretrained.mkdir()
    check(load(str(FIXTURES / "tiny.yaml"), words), stage, 1)
