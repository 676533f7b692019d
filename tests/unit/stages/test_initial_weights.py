"""Initial weights of a retrained network.

References: the logits of the supernet's sides, and a count of the search images that each side classifies correctly.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

from tests.helpers.digits import write_digits
from tests.helpers.networks import random_network
from tests.helpers.paths import FIXTURES
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.config import Config, Training
from vitas_ds.config import Engine as EngineConfig
from vitas_ds.data.loader import decode_all, normalize
from vitas_ds.data.sources import ImageSet, hold_out, read_folder
from vitas_ds.distributed import comm
from vitas_ds.distributed.comm import Ranks
from vitas_ds.engine.engine import Engine
from vitas_ds.errors import UserError
from vitas_ds.export.folder import Preprocess, write_model
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.recipe import load
from vitas_ds.run.run_dir import run_of
from vitas_ds.stages import initial_weights, retrain
from vitas_ds.stages.held_out import held_out_images
from vitas_ds.training import checkpoint
from vitas_ds.training.checkpoint_reader import consolidate

TINY = FIXTURES / "tiny.yaml"
SPEC = SubnetSpec(28, 7, 16, 10, (LayerSpec(2, 48, 64), LayerSpec(4, 96, 32)))
ALONE = Ranks(0, 1, 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and a random supernet for each sharing rule."""
    folder = tmp_path_factory.mktemp("init")
    write_digits(folder / "digits", 12, 1)
    for sharing in ("bilateral", "ordinal"):
        supernet = Supernet(load(str(TINY), []).space, sharing, 2)
        init_weights(supernet, 6, None)
        save_file(supernet.state_dict(), folder / f"{sharing}.safetensors")
    return folder


def recipe(folder: Path, init: str, *overrides: str, sharing: str = "bilateral") -> Config:
    paths = [f"run.dir={folder}/runs", f"data.train={folder}/digits/train", f"retrain.init={init}"]
    supernet = [f"search.checkpoint={folder}/{sharing}.safetensors", f"supernet.sharing={sharing}"]
    return load(str(TINY), [*paths, *supernet, *overrides])


def images_of(config: Config) -> ImageSet:
    return read_folder(config.data.train)


def test_search_images_are_those_of_the_search_whatever_retrain_holds_out(folder: Path) -> None:
    """The stage trains without ``retrain.eval_images``; the search images were held out of all images."""
    config = recipe(folder, "supernet", "retrain.eval_images=40")
    images, _ = held_out_images(config)
    model = VisionTransformer(SPEC)
    fill = initial_weights.make_init(config, run_of(config), model, images, ALONE)
    assert fill is not None and fill() == start(config)[1]


def start(config: Config, spec: SubnetSpec = SPEC) -> tuple[VisionTransformer, str]:
    """Return the network and the description of its initial weights."""
    model = VisionTransformer(spec)
    fill = initial_weights.make_init(config, run_of(config), model, images_of(config), ALONE)
    return model.eval(), fill() if fill else "nothing"


@torch.no_grad()
def test_the_side_that_is_right_more_often(folder: Path) -> None:
    config = recipe(folder, "supernet")
    supernet, _ = initial_weights.load_supernet(config, run_of(config))
    search_images = hold_out(images_of(config), 8, 3)[1]
    x = normalize(decode_all(search_images, config.data, 28, ALONE), config.data)
    labels = torch.from_numpy(search_images.labels)
    specs = [replace(SPEC, patch_size=p, layers=SPEC.layers[::order]) for p in (7, 14) for order in (1, -1)]
    better = []
    for spec in (*specs, replace(SPEC, layers=SPEC.layers[:1])):
        logits = supernet(x, spec)
        hits = [int((side.argmax(-1) == labels).sum()) for side in logits]
        best = int(hits[1] > hits[0])
        model, text = start(config, spec)
        torch.testing.assert_close(model(x), logits[best])
        shares = f"left {hits[0] / 80:.4f}, right {hits[1] / 80:.4f}"
        assert text == f"the {('left', 'right')[best]} side of the supernet (accuracy on the search images: {shares})"
        better.append(best)
    assert set(better) == {0, 1}  # the test covers both


@torch.no_grad()
def test_a_supernet_with_one_side(folder: Path) -> None:
    config = recipe(folder, "supernet", sharing="ordinal")
    supernet, _ = initial_weights.load_supernet(config, run_of(config))
    model, text = start(config)
    x = torch.randn(2, 3, 28, 28)
    torch.testing.assert_close(model(x), supernet(x, SPEC)[0])
    assert text == "the weights of the supernet"


def test_missing_supernet_and_network_outside_the_space(folder: Path) -> None:
    with pytest.raises(UserError, match=r"supernet/weights.safetensors: no trained supernet; run the stage train-sup"):
        start(recipe(folder, "supernet", "search.checkpoint=null"))
    with pytest.raises(UserError, match=r"^retrain.init: supernet: .*embed_dim 20.*; use retrain.init=scratch$"):
        start(recipe(folder, "supernet"), replace(SPEC, embed_dim=20))


def export(folder: Path, name: str, spec: SubnetSpec = SPEC, classes: tuple[str, ...] = (), mean: float = 0.5) -> Path:
    write_model(random_network(spec), folder / name, Preprocess(28, (mean,) * 3, (0.5,) * 3, classes), name, {})
    return folder / name


@torch.no_grad()
def test_an_exported_model_and_a_run(folder: Path, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 28, 28)
    for name in ("net", "run/retrain/model"):
        path = export(tmp_path, name, classes=tuple("0123456789"))
        model, text = start(recipe(folder, str(tmp_path / name.partition("/")[0])))
        assert torch.equal(model(x), random_network(SPEC)(x)) and text == f"the weights in {path}"


def test_models_that_do_not_fit_are_one_line(folder: Path, tmp_path: Path) -> None:
    shallow = export(tmp_path, "shallow", replace(SPEC, layers=SPEC.layers[:1]))
    reasons = {
        shallow: r"shallow is another network \(.*1 x .*\) than retrain.spec \(.*\); set retrain.spec=.*/spec.json$",
        tmp_path / "nothing": "nothing: not the folder of an exported model or of a run$",
    }
    for path, reason in reasons.items():
        with pytest.raises(UserError, match=rf"^retrain.init: .*{reason}") as error:
            start(recipe(folder, str(path)))
        assert "\n" not in str(error.value)
    with pytest.warns(
        UserWarning, match=r"was trained with mean \[0.25, 0.25, 0.25\] and std .*, data.mean and data.std"
    ):
        start(recipe(folder, str(export(tmp_path, "shifted", mean=0.25))))


@pytest.mark.parametrize(
    ("classes", "names"), [(11, ""), (10, "0123456798"), (10, "0123456789")], ids=["number", "names", "same"]
)
@torch.no_grad()
def test_other_classes_get_a_new_head(folder: Path, tmp_path: Path, classes: int, names: str) -> None:
    spec = replace(SPEC, num_classes=classes)
    config = recipe(folder, str(export(tmp_path, "net", spec, tuple(names))))
    model = VisionTransformer(SPEC)
    init_weights(model, 5)
    initial, trained = {k: v.clone() for k, v in model.state_dict().items()}, random_network(spec).state_dict()
    fill = initial_weights.make_init(config, run_of(config), model, images_of(config), ALONE)
    assert fill is not None
    is_new, text = names != "0123456789", fill()
    assert text == f"the weights in {tmp_path}/net" + (", with a new head for 10 classes" if is_new else "")
    for name, value in model.state_dict().items():
        assert torch.equal(value, (initial if is_new and name.startswith("head") else trained)[name]), name


@torch.no_grad()
def test_another_image_size(folder: Path, tmp_path: Path) -> None:
    path = export(tmp_path, "net", classes=tuple("0123456789"))
    config = recipe(folder, str(path), "space.image_size=42", "data.resize=42")
    model, text = start(config, replace(SPEC, image_size=42))
    assert text == f"the weights in {path}, with position embeddings resized from 4 x 4 to 6 x 6"
    trained = random_network(SPEC).state_dict()
    expected = resample_abs_pos_embed(trained["pos_embed"], [6, 6], num_prefix_tokens=1)
    torch.testing.assert_close(model.pos_embed, expected, rtol=0, atol=1e-7)
    assert all(torch.equal(v, trained[k]) for k, v in model.state_dict().items() if k != "pos_embed")


def test_the_spec_of_the_initial_weights(folder: Path, tmp_path: Path) -> None:
    path, other = export(tmp_path, "net", replace(SPEC, num_classes=11)), tmp_path / "other.json"
    other.write_text(json.dumps(replace(SPEC, embed_dim=20).to_dict()))
    config = recipe(folder, str(path), f"run.dir={tmp_path}", "retrain.init_weights=null")
    assert config.retrain.spec == "init"
    assert retrain.chosen_spec(config, run_of(config)) == SPEC
    chosen = recipe(folder, str(path), f"retrain.spec={other}")
    assert retrain.chosen_spec(chosen, run_of(chosen)).embed_dim == 20
    assert recipe(folder, "supernet").retrain.spec == "search:best"
    # a started run needs the model no more
    (run_of(config).retrain.path).mkdir(parents=True)
    run_of(config).retrain_spec.write_text(json.dumps(SPEC.to_dict()))
    moved = config.model_copy(update={"retrain": config.retrain.model_copy(update={"init": "/nowhere"})})
    assert retrain.chosen_spec(moved, run_of(moved)) == SPEC
    with pytest.raises(UserError, match=r"^retrain.init: /nowhere: not the folder of an exported model or of a run$"):
        retrain.chosen_spec(recipe(folder, "/nowhere"), run_of(recipe(folder, "/nowhere")))
    with pytest.raises(UserError, match=r"retrain: spec is init, but init is supernet, not a model; give the network"):
        recipe(folder, "supernet", "retrain.spec=init")


def test_the_spec_of_a_checkpoint_is_that_of_its_run(folder: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / "retrain" / "checkpoints" / "step-00000004"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    config = recipe(folder, str(checkpoint), f"run.dir={tmp_path}")
    with pytest.raises(UserError, match=r"^retrain.spec: .*step-00000004 is a checkpoint without spec.json; set ret"):
        retrain.chosen_spec(config, run_of(config))
    (checkpoint.parents[1] / "spec.json").write_text(json.dumps(SPEC.to_dict()))
    assert retrain.chosen_spec(config, run_of(config)) == SPEC


def test_a_run_with_a_checkpoint_reads_no_initial_weights(folder: Path, tmp_path: Path) -> None:
    for init in ("supernet", str(tmp_path / "deleted")):
        config = recipe(folder, init, f"run.dir={tmp_path}", "search.checkpoint=null")
        (run_of(config).retrain.checkpoints / "step-00000001").mkdir(parents=True, exist_ok=True)
        assert start(config)[1] == "nothing"
    assert start(recipe(folder, "scratch"))[1] == "nothing"


def test_the_task_of_the_stage_fills_its_own_network(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(SPEC.to_dict()))
    config = recipe(folder, "supernet", f"retrain.spec={tmp_path}/spec.json")
    task = retrain.make_task(config, run_of(config), ALONE, SPEC, images_of(config))
    assert task.init is not None and task.teacher == ""
    task.init()
    expected, _ = start(config)
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in task.model.state_dict().items())


def write_checkpoint(folder: Path, spec: SubnetSpec, deepspeed: bool, ema: float = 0.0) -> VisionTransformer:
    """Save a checkpoint of a training, and return the network with the weights to start from."""
    net, ranks = random_network(spec).train(), comm.init("cpu", timeout=60)
    training = Training(batch_size=2, ema_decay=ema)
    engine = Engine(net, {"all": list(net.parameters())}, EngineConfig(zero="zero1", precision="fp32"), training, ranks)
    engine.backward(engine(torch.randn(2, 3, 28, 28)).square().mean())
    engine.step(["all"], 1e-2)
    path = checkpoint.save(engine, folder, 1, {}, deepspeed=deepspeed)
    expected = VisionTransformer(spec).eval()
    expected.load_state_dict(consolidate(path, ema=ema > 0))
    return expected


@torch.no_grad()
@pytest.mark.parametrize("deepspeed", [False, True])
def test_a_checkpoint(folder: Path, tmp_path: Path, deepspeed: bool) -> None:
    x = torch.randn(2, 3, 28, 28)
    with torch.enable_grad():
        expected = write_checkpoint(tmp_path / "plain", SPEC, deepspeed)
        averaged = write_checkpoint(tmp_path / "ema", SPEC, deepspeed, ema=0.5)
    path = tmp_path / "plain" / "step-00000001"
    for init in (path, tmp_path / "plain"):
        model, text = start(recipe(folder, str(init)))
        assert torch.equal(model(x), expected(x)) and text == f"the weights in {path}"
    model, text = start(recipe(folder, str(tmp_path / "ema")))
    assert torch.equal(model(x), averaged(x)) and text.startswith("the averaged weights in ")


def test_a_checkpoint_of_other_classes_and_another_image_size(folder: Path, tmp_path: Path) -> None:
    trained = write_checkpoint(tmp_path, replace(SPEC, num_classes=11), False).state_dict()
    config = recipe(folder, str(tmp_path), "space.image_size=42", "data.resize=42")
    model, text = start(config, replace(SPEC, image_size=42))
    assert text.endswith(", with a new head for 10 classes and position embeddings resized from 4 x 4 to 6 x 6")
    for name, value in model.state_dict().items():
        if name != "pos_embed" and not name.startswith("head"):
            assert torch.equal(value, trained[name]), name


def test_checkpoints_that_do_not_fit_are_one_line(folder: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "shallow", replace(SPEC, layers=SPEC.layers[:1]), True)
    write_checkpoint(tmp_path / "missing", SPEC, True)
    tag = tmp_path / "missing" / "step-00000001"
    (tag / "manifest.json").unlink()
    (tag / "zero_pp_rank_0_mp_rank_00_optim_states.pt").unlink()
    reasons = {
        tmp_path / "shallow": r"weights of another network than retrain.spec \(.*\): tensor blocks.1.* is missing; .*",
        tag: r"zero_pp_rank_0_mp_rank_00_optim_states.pt is missing: 1 ranks saved this checkpoint; copy the files",
    }
    for path, reason in reasons.items():
        with pytest.raises(UserError, match=reason) as error:
            start(recipe(folder, str(path)))
        assert "\n" not in str(error.value)
