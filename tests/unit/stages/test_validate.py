"""Checks of a configuration before a stage starts.

Reference: configurations with one error each.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.helpers.paths import FIXTURES
from vitas_ds.config import Config
from vitas_ds.data.sources import read_folder
from vitas_ds.errors import UserError
from vitas_ds.recipe import load
from vitas_ds.run.run_dir import run_of
from vitas_ds.stages import validate

TINY = FIXTURES / "tiny.yaml"


def recipe(*overrides: str) -> Config:
    return load(str(TINY), list(overrides))


@pytest.mark.parametrize("stage", ["config", "train-supernet", "search", "retrain"])
def test_resize_below_the_image_size_is_an_error(stage: str) -> None:
    with pytest.raises(UserError, match=r"data\.resize: 27 is below the image size 28; use 28 or more"):
        validate.check(recipe("data.resize=27"), stage, 1)
    validate.check(recipe(), "config", 1)


@pytest.mark.parametrize("stage", ["config", "train-supernet", "retrain"])
def test_invalid_zero_file_is_an_error(stage: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"engine\.zero: no file .*; allowed: zero0, zero1, "):
        validate.check(recipe("engine.zero=nonsense"), stage, 1)
    (tmp_path / "own.json").write_text('{"zero_optimization": {"stage": 1, "reduce_bucket_size": "large"}}')
    with pytest.raises(UserError, match=r"own\.json: .*reduce_bucket_size must be a whole number"):
        validate.check(recipe(f"engine.zero={tmp_path}/own.json"), stage, 1)


@pytest.mark.parametrize("value", ["banana", "xpu", ""])
def test_an_unsupported_accelerator_is_an_error(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", value)
    for stage in ("train-supernet", "search", "retrain", "evaluate", "export"):
        with pytest.raises(UserError, match=rf"^DS_ACCELERATOR: must be cpu or cuda, .* \(given: '{value}'\)$"):
            validate.check(recipe(), stage, 1)
    validate.check(recipe(), "config", 1)  # may be for another machine


def make_shard(folder: Path, labels: list[int], names: list[str] | None = None) -> None:
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "a.tar", "w") as tar:
        for i, label in enumerate(labels):
            for extension, content in (("jpg", b"x"), ("cls", str(label).encode())):
                info = tarfile.TarInfo(f"{i}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    if names:
        (folder / "classes.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))


def test_classes_of_shards_are_compared(tmp_path: Path) -> None:
    train, val = tmp_path / "train", tmp_path / "val"
    both = f"data.train={train}", f"data.val={val}"
    for i in range(10):
        (val / f"c{i}").mkdir(parents=True)
    make_shard(train, list(range(10)), [f"c{i}" for i in range(10)])
    validate.check(recipe(*both), "train-supernet", 1)  # shards and folders can be combined
    make_shard(train, list(range(10)), [f"c{i}" for i in range(9)] + ["other"])
    with pytest.raises(UserError, match=r"different classes: c9 is only in data\.val"):
        validate.check(recipe(*both), "train-supernet", 1)
    make_shard(train, list(range(11)), [f"c{i}" for i in range(11)])
    with pytest.raises(UserError, match=r"space\.num_classes: 10, but .*train has 11 classes in classes.json"):
        validate.check(recipe(*both), "train-supernet", 1)
    (train / "classes.json").unlink()
    with pytest.raises(UserError, match=r"different classes: 0 is only in data\.train"):
        validate.check(recipe(*both), "train-supernet", 1)
    with pytest.raises(UserError, match=r"space\.num_classes: 10, but .*train has 11 classes$"):
        read_folder(train, num_classes=10)
    make_shard(train, [0, 99999999999])
    with pytest.raises(UserError, match=r"1.cls: b'99999999999' is not a label; use a number from 0 to 999999"):
        read_folder(train)


@pytest.mark.parametrize("stage", ["config", "train-supernet", "search"])
@pytest.mark.parametrize(
    "choice",
    [
        "search:nothing",
        "search:pareto",
        "search:macs<1.3.1G",
        "search:best[-1]",
    ],
)
def test_invalid_choice_of_the_candidate_to_retrain_is_an_error(stage: str, choice: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^retrain\.spec: .*(does not name a candidate|is not a number)"):
        validate.check(recipe(f"retrain.spec={choice}"), stage, 1)
    for good in ("search:best", "search:best[2]", "search:pareto[0]", "search:macs<1.3G"):
        validate.check(recipe(f"retrain.spec={good}"), "config", 1)
    validate.check(recipe("retrain.spec=search:latency<=5m", "search.latency=[0,1]"), "config", 1)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("search:best[0]", r"keeps search:best\[1\] to search:best\[5\]; increase search\.top_k"),
        ("search:best[6]", r"increase search\.top_k"),
        ("search:macs<0", "must be above 0"),
        ("search:latency<4m", "the search measures no latency"),
    ],
)
def test_choice_that_the_search_will_not_have_is_an_error(choice: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate.check(recipe(f"retrain.spec={choice}", "search.top_k=5"), "config", 1)


@pytest.mark.parametrize("stage", ["config", "train-supernet"])
def test_too_many_search_images_are_an_error_before_training(stage: str) -> None:
    held_out = recipe().data.search_per_class * 10
    with pytest.raises(UserError, match=rf"search\.images: {held_out + 1} is above the {held_out} search images"):
        validate.check(recipe(f"search.images={held_out + 1}"), stage, 1)


def test_ranks_and_ledger_of_the_search_are_checked() -> None:
    with pytest.raises(UserError, match=r"search\.ranks_per_candidate: 3 does not divide the 4 ranks"):
        validate.check(recipe("search.ranks_per_candidate=3"), "search", 4)
    with pytest.raises(UserError, match=r"search\.reuse: /nowhere: no such ledger"):
        validate.check(recipe("search.reuse=/nowhere"), "search", 4)
    validate.check(
        recipe("search.ranks_per_candidate=3", "search.reuse=/nowhere"), "config", 4
    )  # the search may use other ranks


@pytest.mark.parametrize(
    ("key", "overrides"),
    [
        ("search.objectives", ["search.algorithm=ga", "search.objectives=[macs]"]),
        ("search.racing", ["search.algorithm=random", "search.racing=0.9"]),
        ("search.surrogate", ["search.algorithm=random", "search.surrogate=0.5"]),
        ("supernet.distill", ["supernet.distill=true"]),
        ("supernet.distill", ["supernet.distill=true", "supernet.sampling=sandwich", "supernet.teacher.model=net"]),
        ("supernet.teacher.kind", ["supernet.teacher.kind=hard"]),
        ("retrain.teacher.temperature", ["retrain.teacher.temperature=2"]),
        ("retrain.teacher.temperature", ["retrain.teacher={model: net, kind: hard, temperature: 2}"]),
        ("supernet.random_subnets", ["supernet.random_subnets=3"]),
        ("supernet.objective", ["supernet.sharing=ordinal", "supernet.objective=loss_mean"]),
        ("search.side_rule", ["supernet.sharing=ordinal", "search.side_rule=logit_sum"]),
    ],
)
def test_a_setting_without_effect_is_one_warning(key: str, overrides: list[str]) -> None:
    with pytest.warns(UserWarning, match=rf"^{key} is ignored: ") as found:
        validate.check(recipe(*overrides), "config", 1)
    assert len(found) == 1


def test_a_compiled_network_cannot_be_retrained_with_zero3() -> None:
    settings = ["engine.compile=true", "engine.zero=zero3"]
    with pytest.raises(UserError, match=r"engine\.compile: .*engine\.zero=zero2"):
        validate.check(load("quickstart", settings), "config", ranks=1)
    validate.check(load("quickstart", [settings[0], "engine.zero=zero2"]), "config", ranks=1)


def write_classes(folder: Path) -> list[str]:
    for name in ("train", "val"):
        for i in range(10):
            (folder / name / f"c{i}").mkdir(parents=True)
    return [f"run.dir={folder}/runs", f"data.train={folder}/train", f"data.val={folder}/val"]


def write_spec(folder: Path, classes: int = 10) -> Path:
    """Write the checked files of an exported model."""
    folder.mkdir(parents=True)
    layers = [{"num_heads": 2, "qkv_dim": 48, "mlp_dim": 64}]
    spec = {"image_size": 28, "patch_size": 7, "embed_dim": 16, "num_classes": classes, "layers": layers}
    (folder / "spec.json").write_text(json.dumps(spec))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


@pytest.mark.parametrize("key", ["supernet.teacher.model", "retrain.teacher.model", "retrain.init"])
def test_a_missing_or_unsuitable_model_is_an_error_before_training(key: str, tmp_path: Path) -> None:
    words = write_classes(tmp_path)
    stages = ["train-supernet"] if key.startswith("supernet") else ["train-supernet", "search", "retrain"]
    for stage in stages:
        with pytest.raises(UserError, match=rf"^{key}: /nowhere: not the folder of an exported model or of a run$"):
            validate.check(recipe(*words, f"{key}=/nowhere"), stage, 1)
    validate.check(recipe(*words, f"{key}=/nowhere"), "config", 1)  # reads no models
    larger, good = write_spec(tmp_path / "larger", 11), write_spec(tmp_path / "good")
    for stage in stages if key != "retrain.init" else ():  # which may have other classes
        with pytest.raises(UserError, match=rf"^{key}: .*larger has num_classes 11, space.num_classes is 10"):
            validate.check(recipe(*words, f"{key}={larger}"), stage, 1)
    for stage in stages:
        for model in (good, larger) if key == "retrain.init" else (good,):
            validate.check(recipe(*words, f"{key}={model}"), stage, 1)


def test_a_teacher_of_timm_needs_a_local_file(tmp_path: Path) -> None:
    words = [*write_classes(tmp_path), "retrain.teacher.model=timm:resnet18"]
    with pytest.raises(UserError, match=r"^retrain.teacher.model: timm:resnet18: give the file of its weights: retrai"):
        validate.check(recipe(*words), "retrain", 1)
    with pytest.raises(UserError, match=r"^retrain.teacher.weights: /nowhere.pth: no such file$"):
        validate.check(recipe(*words, "retrain.teacher.weights=/nowhere.pth"), "retrain", 1)
    with pytest.warns(UserWarning, match=r"^retrain.teacher.weights is ignored: retrain.teacher.model is not timm"):
        validate.check(recipe("retrain.teacher.weights=x.pth"), "config", 1)


def test_settings_of_fine_tuning_without_effect_are_warnings() -> None:
    for words, message in (
        (["retrain.freeze=backbone"], "retrain.freeze: retrain.init is scratch: the frozen weights are random"),
        (["retrain.layer_decay=0.9", "search.finalists.count=2", "search.finalists.steps=20"],
         "retrain.layer_decay is ignored in the short trainings of the search"),
        (["retrain.freeze=1", "retrain.init=supernet", "search.check.nets=4", "search.check.steps=20"],
         "retrain.freeze is ignored in the short trainings of the search"),
    ):  # fmt: skip
        with pytest.warns(UserWarning, match=rf"^{message}$"):
            validate.check(recipe(*words), "config", 1)


def test_models_of_later_and_of_finished_stages(tmp_path: Path) -> None:
    words = [*write_classes(tmp_path), f"retrain.teacher.model={tmp_path}/big"]
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "config.yaml").write_text("")  # a run without a retrained network
    for stage in ("train-supernet", "search"):
        validate.check(recipe(*words), stage, 1)
    with pytest.raises(UserError, match=r"^retrain.teacher.model: .*big: this run has not retrained a network yet"):
        validate.check(recipe(*words), "retrain", 1)
    finished = run_of(recipe(*words))
    gone = [*words[:-1], *(f"{key}=/nowhere" for key in ("retrain.teacher.model", "supernet.teacher.model"))]
    finished.retrain_model.mkdir(parents=True)
    finished.retrain_weights.write_bytes(b"")
    finished.supernet.path.mkdir()
    finished.supernet_weights.write_bytes(b"")
    for stage in ("train-supernet", "search", "retrain"):
        validate.check(recipe(*gone), stage, 1)


def test_weights_of_a_network_outside_the_space_are_an_error_before_training() -> None:
    with pytest.raises(UserError, match=r"^retrain.init: supernet: .*; use retrain.init=scratch$"):
        validate.check(recipe("retrain.spec=deit-ti", "retrain.init=supernet"), "config", 1)
    validate.check(recipe("retrain.init=supernet"), "config", 1)


@pytest.mark.parametrize("key", ["init_weights", "resume_from"])
def test_two_sources_of_initial_weights_are_an_error(key: str) -> None:
    with pytest.raises(UserError, match=rf"retrain: {key} and init both give the initial weights; set one of them$"):
        recipe("retrain.init=supernet", f"retrain.{key}=x")
    recipe("retrain.init=scratch", f"retrain.{key}=x")


TIMED = "search.latency=[0, 1]"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["search.latency_runtime=cuda-graph", "run.device=cpu"], "cuda-graph needs a GPU"),
        (["search.latency_runtime=onnxruntime", "search.latency_precision=bf16"], "onnxruntime computes in fp32"),
        (["search.latency_table=/no/such/table"], r"search\.latency_table: /no/such/table: No such file"),
    ],
)
def test_how_latencies_are_measured_is_checked(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        validate.check(recipe(TIMED, *overrides), "search", 1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["search.latency_also=[1]"], r"search\.latency_also is ignored: the run measures no latency"),
        (["search.latency_runtime=torch"], r"search\.latency_runtime is ignored"),
        ([TIMED, "search.latency_device=phone"], r"search\.latency_device is ignored: .* is not set"),
    ],
)
def test_ignored_settings_of_latencies_are_warnings(overrides: list[str], message: str) -> None:
    with pytest.warns(UserWarning, match=message) as caught:
        validate.check(recipe(*overrides), "config", 1)
    assert len(caught) == 1


def test_batch_sizes_of_latencies_differ() -> None:
    for sizes in ("[1, 1]", "[32]", "[0]"):
        with pytest.raises(UserError, match="must be different sizes above 0"):
            recipe(f"search.latency_also={sizes}")
