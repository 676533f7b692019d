"""Teachers of the stages: loading, digest, errors, and the losses that use them.

References: the exported network itself, and plain torch.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from tests.helpers.networks import random_network
from tests.helpers.paths import FIXTURES
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.config import Config
from vitas_ds.data.sources import ImageSet
from vitas_ds.errors import UserError
from vitas_ds.export.folder import Preprocess, write_model
from vitas_ds.export.to_timm import build_timm, to_timm
from vitas_ds.recipe import load
from vitas_ds.run.run_dir import run_of
from vitas_ds.stages import retrain
from vitas_ds.stages.teaching import load_teacher
from vitas_ds.stages.train_supernet import step_losses

TINY = FIXTURES / "tiny.yaml"
SPEC = SubnetSpec(28, 14, 20, 10, (LayerSpec(2, 30, 40),))
CPU = torch.device("cpu")
IMAGES = ImageSet("digits", ("0/a.jpg",), torch.zeros(1).long().numpy(), tuple("0123456789"))


def export(folder: Path, spec: SubnetSpec = SPEC, classes: str = "0123456789", mean: float = 0.5) -> Path:
    preprocess = Preprocess(28, (mean,) * 3, (0.5,) * 3, tuple(classes))
    write_model(random_network(spec), folder, preprocess, "net", {})
    return folder


def recipe(teacher: Path | str, *overrides: str) -> Config:
    return load(str(TINY), [f"{s}.teacher.model={teacher}" for s in ("supernet", "retrain")] + list(overrides))


@pytest.mark.parametrize("section", ["supernet", "retrain"])
def test_no_teacher_and_the_network_of_a_run(tmp_path: Path, section: str) -> None:
    assert load_teacher(load(str(TINY), []), section, IMAGES, CPU) is None
    export(tmp_path / "run" / "retrain" / "model")
    teacher = load_teacher(recipe(tmp_path / "run"), section, IMAGES, CPU)
    x = torch.randn(3, 3, 28, 28)
    torch.testing.assert_close(teacher(x), random_network(SPEC)(x).detach())


def test_the_digest_covers_weights_architecture_and_normalization(tmp_path: Path) -> None:
    def digest(name: str, **change: object) -> str:
        teacher = load_teacher(recipe(export(tmp_path / name, **change)), "retrain", IMAGES, CPU)
        return teacher.digest

    first = digest("a")
    assert first == digest("moved") and len(first) == 64
    # the same tensors, but another softmax
    heads = replace(SPEC, layers=(LayerSpec(2, 30, 40, 0.5),))
    others = [digest("b", mean=0.4), digest("c", spec=heads), digest("d", spec=replace(SPEC, embed_dim=16))]
    weights = tmp_path / "a" / "model.safetensors"
    save_file({name: value + 1e-6 for name, value in load_file(weights).items()}, weights)
    (tmp_path / "a" / "config.json").unlink()  # which has the SHA-256 of the weights
    others.append(load_teacher(recipe(tmp_path / "a"), "retrain", IMAGES, CPU).digest)
    assert len({first, *others}) == 5


def test_images_are_normalized_for_the_teacher(tmp_path: Path) -> None:
    teacher = load_teacher(recipe(export(tmp_path / "net", mean=0.25)), "retrain", IMAGES, CPU)
    pixels = torch.rand(3, 3, 28, 28)
    torch.testing.assert_close(teacher((pixels - 0.5) / 0.5), random_network(SPEC)((pixels - 0.25) / 0.5).detach())


def test_teachers_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    for name, change, reason in (
        ("classes", {"spec": replace(SPEC, num_classes=11)}, "has num_classes 11, space.num_classes is 10; they must"),
        ("size", {"spec": replace(SPEC, image_size=42)}, "has image_size 42, space.image_size is 28; they must"),
        ("order", {"classes": "0123456798"}, "was trained on other classes than those in digits$"),
    ):
        with pytest.raises(UserError, match=rf"^supernet.teacher.model: .*{name} {reason}") as error:
            load_teacher(recipe(export(tmp_path / name, **change)), "supernet", IMAGES, CPU)
        assert "\n" not in str(error.value)


def taught(student: Tensor, targets: Tensor, teacher: Tensor) -> Tensor:
    """Return the loss of hard distillation with equal weights."""
    return (F.cross_entropy(student, targets) + F.cross_entropy(student, teacher.argmax(-1))) / 2


@pytest.mark.parametrize("distill", [False, True])
@pytest.mark.parametrize("objective", ["logit_sum", "loss_mean"])
def test_every_subnet_of_a_step_learns_from_the_teacher(tmp_path: Path, objective: str, distill: bool) -> None:
    options = ["supernet.teacher.kind=hard", f"supernet.objective={objective}", f"supernet.distill={distill}"]
    config = recipe(export(tmp_path / "net"), "supernet.sampling=sandwich", *options)
    teacher = load_teacher(config, "supernet", IMAGES, CPU)
    x, targets = torch.randn(4, 3, 28, 28), torch.randn(4, 10).softmax(-1)
    expected = random_network(SPEC)(x).detach()
    outputs = iter(torch.randn(3, 2, 4, 10))
    logits = list(outputs)
    outputs = iter(logits)
    got = list(step_losses(config, lambda images, spec: next(outputs), [SPEC] * 3, x, targets, teacher))
    for loss, (left, right) in zip(got, logits, strict=True):
        summed = taught(left + right, targets, expected)
        mean = (taught(left, targets, expected) + taught(right, targets, expected)) / 2
        torch.testing.assert_close(loss, (summed if objective == "logit_sum" else mean) / 3)


def test_the_loss_of_retraining(tmp_path: Path) -> None:
    config = recipe(export(tmp_path / "net"), "retrain.teacher.temperature=2", "retrain.teacher.weight=0.75")
    ranks = retrain.Ranks(0, 1, 0, CPU)
    student = replace(SPEC, embed_dim=12)
    task = retrain.make_task(config, run_of(config), ranks, student, IMAGES)
    assert task.teacher_macs == spec_macs(SPEC)  # they count in the MFU
    x, targets = torch.randn(4, 3, 28, 28), torch.randn(4, 10).softmax(-1)
    (loss,) = task.losses(task.model.eval(), x, targets, 0)
    s, t = task.model(x), random_network(SPEC)(x).detach()
    kl = F.kl_div((s / 2).log_softmax(-1), (t / 2).softmax(-1), reduction="batchmean")
    torch.testing.assert_close(loss, 0.25 * F.cross_entropy(s, targets) + 0.75 * 4 * kl)
    loss.backward()
    assert all(p.grad is not None for p in task.model.parameters())
    assert task.teacher == load_teacher(config, "retrain", IMAGES, CPU).digest
    assert set(task.units) == {"all"} and len(task.units["all"]) == len(list(task.model.parameters()))


def test_the_distillation_token(tmp_path: Path) -> None:
    """Reference: DeiT's loss of the logits of timm's VisionTransformerDistilled, and their mean in evaluation."""
    net = SubnetSpec(28, 14, 24, 10, (LayerSpec(2, 72, 48), LayerSpec(2, 72, 48)))
    (tmp_path / "net.json").write_text(json.dumps(net.to_dict()))
    options = ["retrain.distill_token=true", "retrain.drop_path_rate=0", f"retrain.spec={tmp_path}/net.json"]
    config = recipe(export(tmp_path / "teacher"), "retrain.teacher.kind=hard", *options)
    spec = retrain.chosen_spec(config, run_of(config))
    assert spec == replace(net, prefix_tokens=2, classifiers=2)
    task = retrain.make_task(config, run_of(config), retrain.Ranks(0, 1, 0, CPU), spec, IMAGES)
    build_timm(to_timm(task.model))  # all positions are 0, which timm's class does not omit
    for name, value in random_network(spec).state_dict().items():
        task.model.state_dict()[name].copy_(value)
    reference = build_timm(to_timm(task.model))
    reference.set_distilled_training(True)
    x, targets = torch.randn(4, 3, 28, 28), torch.randn(4, 10).softmax(-1)
    (loss,) = task.losses(task.model.train(), x, targets, 0)
    logits, token = reference.train()(x)
    best = random_network(SPEC)(x).argmax(-1)
    torch.testing.assert_close(loss, 0.5 * F.cross_entropy(logits, targets) + 0.5 * F.cross_entropy(token, best))
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in task.model.parameters())
    torch.testing.assert_close(task.model.eval()(x), reference.eval()(x))
    assert task.model(x).shape == (4, 10)


def test_networks_without_a_distillation_token_are_one_line(tmp_path: Path) -> None:
    teacher = f"retrain.teacher.model={export(tmp_path / 'teacher')}"
    for words, reason in (
        ([], "retrain: distill_token learns from a teacher; set teacher.model"),
        ([teacher, "retrain.init=supernet"], "retrain: distill_token: a supernet has no such token; use init=scratch"),
        (
            [teacher, f"retrain.init={tmp_path}/teacher"],
            "retrain.distill_token: .*has no distillation token; use ret",
        ),
    ):
        with pytest.raises(UserError, match=reason):
            config = load(str(TINY), ["retrain.distill_token=true", *words])
            retrain.chosen_spec(config, run_of(config))


def timm_recipe(file: Path, name: str, *overrides: str) -> Config:
    return recipe(f"timm:{name}", f"retrain.teacher.weights={file}", f"supernet.teacher.weights={file}", *overrides)


@pytest.mark.parametrize("name", ["resnet18.bogus", "resnet_of_mine"])
def test_an_unknown_network_or_tag_of_timm_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "net.pth").touch()
    with pytest.raises(UserError, match=rf"^retrain.teacher.model: timm [\d.]+ has no network {name}$"):
        load_teacher(timm_recipe(tmp_path / "net.pth", name), "retrain", IMAGES, CPU)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_network_of_timm(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    reference = timm.create_model("resnet18", num_classes=10).eval()
    for buffer in reference.buffers():
        buffer.copy_(torch.rand_like(buffer.float()) + 0.5)
    file = tmp_path / f"net{suffix}"
    if suffix == ".safetensors":
        save_file(reference.state_dict(), file)
    else:
        torch.save({"model": reference.state_dict()}, file)
    teacher = load_teacher(timm_recipe(file, "resnet18"), "retrain", IMAGES, CPU)
    pixels = torch.rand(3, 3, 28, 28)
    mean, std = (torch.tensor(reference.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(teacher((pixels - 0.5) / 0.5), reference((pixels - mean) / std).detach())
    assert len(teacher.digest) == 64


def test_networks_of_timm_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    files, vit = {}, "vit_tiny_patch16_224"
    for name, classes in (("resnet18", 11), (vit, 10)):
        files[name] = tmp_path / f"{name}.safetensors"
        save_file(timm.create_model(name, num_classes=classes).state_dict(), files[name])
    reasons = [
        (timm_recipe(files["resnet18"], "resnet18"), r"weights: .* has 11 classes, space.num_classes is 10$"),
        (timm_recipe(files["resnet18"], "resnet34"), r"weights: .* has 11 classes, space.num_classes is 10$"),
        (timm_recipe(files[vit], "resnet18"), "weights: .*: not the weights of resnet18: tensor .* is m"),
        (timm_recipe(files[vit], vit), "has image_size 224, space.image_size is 28; "),
        (timm_recipe(files["resnet18"], "resnet19"), "model: timm .* has no network resnet19$"),
        (timm_recipe(tmp_path / "none.pth", "resnet18"), "weights: .*none.pth: no such file$"),
        (recipe("timm:resnet18"), "model: timm:resnet18: give the file of its weights: retrain.teacher.weights=FILE$"),
    ]
    for config, reason in reasons:
        with pytest.raises(UserError, match=rf"^retrain.teacher..*{reason}") as error:
            load_teacher(config, "retrain", IMAGES, CPU)
        assert "\n" not in str(error.value)
