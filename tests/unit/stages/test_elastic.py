"""The command ``vitas elastic``: settings from a network, the order of stages, wrong input, and a whole run.

References: the network itself, and the files of the stages.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.helpers.digits import write_digits
from tests.helpers.launching import free_port
from tests.helpers.networks import random_network
from vitas_ds import load as load_model
from vitas_ds.__main__ import main
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import LayerSpec, SubnetSpec, read_spec
from vitas_ds.elastic.scores import read_scores
from vitas_ds.export.folder import Preprocess, read_model, write_model
from vitas_ds.recipe import load
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.summary import read_summary
from vitas_ds.stages.elastic import Step, long_words, plan, start_stage
from vitas_ds.stages.network_words import network_words

RECIPE = """
space: {image_size: 28, num_classes: 10, patch_sizes: [14], embed_dim: 64, depth: 6, num_heads: [1, 2, 4], qkv_dim: 192,
  mlp_dim: 128, embed_ratios: [0.75, 1.0], qkv_ratios: [0.5, 1.0], mlp_ratios: [0.5, 1.0], min_depth: 4,
  elastic: {head_dim: 16}}
data: {search_per_class: 8, resize: 28, threads: 1}
engine: {precision: fp32}
supernet: &train {sharing: ordinal, private_attention: 0, sampling: sandwich, random_subnets: 1, importance_images: 20,
  teacher: {model: init}, epochs: 1, batch_size: 40, lr: 1.0e-3, warmup_epochs: 0.5, eval_every: 0}
search: {population: 4, generations: 1, top_k: 1}
retrain: {init: supernet, epochs: 1, batch_size: 40, warmup_epochs: 0.5}
tracking: {wandb: disabled}
"""
SPEC = SubnetSpec(28, 7, 32, 10, (LayerSpec(2, 48, 64),) * 3)
DATA = ["data.train=digits/train", "data.val=digits/val", "run.name=a"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(RECIPE)
    classes = tuple(map(str, range(10)))
    write_model(random_network(SPEC), Path("vit"), Preprocess(28, (0.4,) * 3, (0.3,) * 3, classes), "vit", {}, "mit")
    return tmp_path


def test_sizes_and_preprocessing_follow_the_network(folder: Path) -> None:
    words = ["supernet.init=vit", "space.min_depth=3"]
    config = load("recipe.yaml", words + network_words("recipe.yaml", words))
    space = config.space
    assert (space.patch_sizes, space.embed_dim, space.depth, space.mlp_dim) == ((7,), 32, 3, 64)
    assert space.num_heads == (1, 2) and space.min_depth == 3 and space.elastic.head_dim == 8
    assert config.data.mean == (0.4,) * 3 and config.data.std == (0.3,) * 3
    assert network_words("recipe.yaml", words + network_words("recipe.yaml", words)) == []


def test_settings_of_the_network_keep_all_digits(folder: Path) -> None:
    spec = replace(SPEC, layers=(LayerSpec(2, 48, 64, 32**-0.5),) * 3)
    preprocess = Preprocess(28, (0.123456789012345,) * 3, (1 / 3,) * 3)
    write_model(random_network(spec), Path("scaled"), preprocess, "scaled", {})
    words = ["supernet.init=scaled"]
    config = load("recipe.yaml", words + network_words("recipe.yaml", words))
    assert config.space.elastic.softmax_scale == 32**-0.5
    assert (config.data.mean, config.data.std) == (preprocess.mean, preprocess.std)


def test_stages_in_order(folder: Path) -> None:
    words = ["data.train=t", "data.val=v", "search.budgets=[1M, 2M]", "run.name=a"]
    steps = plan(load("recipe.yaml", words), "recipe.yaml", words, direct=True)
    stages = ["train-supernet", "search", "retrain", "evaluate", "export", "evaluate", "export", "report"]
    assert [step.stage for step in steps] == stages
    assert steps[2].words[-3:] == ("retrain.spec=search:budgets", "retrain.init=supernet", "retrain.epochs=0")
    assert [step.recipe for step in steps[3:]] == ["runs/a-budget0"] * 2 + ["runs/a-budget1"] * 2 + ["runs/a"]
    assert {step.words for step in steps[3:7]} == {("data.train=t", "data.val=v")}  # which the runs may not have
    one = plan(load("recipe.yaml", ["search.budgets=[1M]"]), "recipe.yaml", [], direct=False)
    assert [step.stage for step in one] == ["train-supernet", "search", "retrain", "export", "report"]
    assert one[3] == Step("export", "runs/default-budget0", launched=False)
    again = plan(load("recipe.yaml", words), "recipe.yaml", words, direct=True, redo=True)
    assert [step.redo for step in again] == [True] * 7 + [False]  # a report has nothing to redo
    assert long_words(["model=a", "weights=b", "run.name=c=d"]) == [
        "supernet.init=a", "supernet.weights=b", "run.name=c=d",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "supernet.init: scratch: no pretrained network; set model=DIR"),
        (["model=nothing"], "supernet.init: nothing: not the folder of an exported model or of a run"),
        (["model=timm:vit_tiny_patch16_224"], "give the file of its weights: weights=FILE"),
        (["model=vit"], "search.budgets: empty; give one or more"),
        (["model=vit", "search.budgets=[9G]"], "macs<=9G: above the largest network of the space; a budget must be"),
        (["model=vit", "search.budgets=[9K]"], "macs<=9K: below the smallest network of the space; a budget must be"),
        (["model=vit", "search.budgets=[400K]", "--launcher", "nothing-here"], "--launcher nothing-here: nothing-here"),
        (["model=vit", "search.budgets=[400K]", "retrain.warmup_epochs=2"], "retrain.warmup_epochs: 2 is above"),
    ],
)
def test_wrong_input_is_one_line(
    folder: Path, words: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["elastic", "recipe.yaml", *words]) == 2
    error = capfd.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_request_to_stop_reaches_the_stage_and_its_status_the_user(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); time.sleep(30)"
    (tmp_path / "stage.py").write_text(f"print(*__import__('sys').argv[1:], flush=True); {script}")
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    assert start_stage(Step("search", "r", ("a.b=c",), redo=True), f"{sys.executable} {tmp_path / 'stage.py'}") == 75
    timer.join()
    assert capfd.readouterr().out == "vitas_ds search r a.b=c --redo\n"


def test_a_stage_saves_and_ends_if_the_command_is_killed(tmp_path: Path) -> None:
    handler = "signal.signal(signal.SIGTERM, lambda *_: (open('saved', 'w'), sys.exit(75)))"
    script = f"import signal, sys, time; {handler}; open('started', 'w'); time.sleep(30)"
    (tmp_path / "stage.py").write_text(script)
    call = f"start_stage(Step('search', 'r'), {f'{sys.executable} stage.py'!r})"
    words = [sys.executable, "-c", f"from vitas_ds.stages.elastic import Step, start_stage; {call}"]
    env = os.environ | {"PYTHONPATH": os.getcwd()}
    with subprocess.Popen(words, cwd=tmp_path, env=env, start_new_session=True) as command:
        try:
            wait_for(tmp_path / "started")
            command.kill()
            wait_for(tmp_path / "saved")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(command.pid, signal.SIGKILL)


def wait_for(path: Path) -> None:
    end = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end, f"no {path.name}"
        time.sleep(0.05)


def test_images_of_other_classes_are_one_line(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        Path("images", name).mkdir(parents=True)
    assert main(["elastic", "recipe.yaml", "model=vit", "data.train=images", "search.budgets=[200K]"]) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("warning")]
    assert len(errors) == 1 and "space.num_classes" in errors[0]


@pytest.mark.long
def test_from_a_network_to_exports_within_two_budgets(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The second budget allows the whole network, which the direct export returns with its original order of units."""
    write_digits(folder / "digits")
    words = ["elastic", "recipe.yaml", "model=vit", *DATA, "--direct", "search.finalists={count: 2, steps: 2}"]
    words += ["supernet.lr=1e-30", "supernet.weight_decay=0"]  # the subnets keep the weights of the network
    words += ["retrain.lr=1e-30", "retrain.weight_decay=0"]  # and so do the finalists
    assert main([*words, "search.budgets=[[0, 200K]]"]) == 0
    assert capfd.readouterr().out.count("elastic: step ") == 6
    words.append("search.budgets=[[0, 200K], [416K, 416672]]")
    assert main(words) == 0
    out = capfd.readouterr().out
    assert out.count("elastic: step ") == 8 and out.count("done already") == 4  # supernet, and the first network
    run = RunDir(Path("runs/a"))
    small, whole = (RunDir(Path(f"runs/a-budget{i}")) for i in range(2))
    images = torch.randn(2, 3, 28, 28)
    for network in (small, whole):
        spec = read_spec(network.export / "spec.json")
        assert load_model(network.export)(images).shape == (2, 10) and spec.num_classes == 10
        assert "top1" in read_summary(network)["evaluate"]
        card = (network.export / "README.md").read_text()
        assert "| kept of the origin | " in card and "license: mit" in card
    assert read_spec(whole.export / "spec.json") == SPEC
    original, exported = read_model(Path("vit")).state_dict(), read_model(whole.export).state_dict()
    assert all(torch.allclose(exported[name], value, atol=1e-6) for name, value in original.items())
    assert len(json.loads(run.best.read_text())["budgets"]) == 2
    capfd.readouterr()
    assert main([*words, "retrain.layer_decay=0.9", "data.val=''", "--redo"]) == 0
    out = capfd.readouterr().out
    assert "train-supernet: done already" in out and "search: done already" in out
    assert out.count("retrain.layer_decay 1 -> 0.9; running again") == 2
    assert out.count("elastic: 0<=macs<=200K: ") == 1 and out.count("not evaluated (data.val is empty); ") == 2


@pytest.mark.long
def test_two_ranks_under_the_deepspeed_launcher(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every stage has both ranks, and the importance is that of one rank."""
    write_digits(folder / "digits")
    launcher = f"deepspeed --num_gpus 2 --master_port {free_port()} --log_level error --module"
    words = ["elastic", "recipe.yaml", "model=vit", *DATA, "search.finalists={count: 2, steps: 2}"]
    words += ["search.budgets=[[0, 200K], 350K]", "engine.zero=zero2"]
    assert main([*words, "--launcher", launcher]) == 0, capfd.readouterr().err
    run = RunDir(Path("runs/a"))
    for made in (run, *(RunDir(Path(f"runs/a-budget{i}")) for i in range(2))):
        starts = json.loads(made.manifest.read_text())["starts"]
        assert {start["world_size"] for start in starts if start["stage"] != "report"} <= {1, 2}
        assert all(start["world_size"] == 2 for start in starts if start["stage"] in ("train-supernet", "retrain"))
    for i, limit in enumerate((200_000, 350_000)):
        network = RunDir(Path(f"runs/a-budget{i}"))
        assert spec_macs(read_spec(network.export / "spec.json")) <= limit
        assert 0 <= read_summary(network)["evaluate"]["top1"] <= 1
    assert main([*words[:-1], "run.name=alone", "--direct"]) == 0
    both, one = (read_scores(RunDir(Path(f"runs/{name}")).importance) for name in ("a", "alone"))
    assert both == one
