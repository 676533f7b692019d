"""Find trained networks by folder or run, and refuse those that do not fit, in one line.

Reference: folders written by hand.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vitas_ds.arch.published import find_spec
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.config import SearchSpace, Teacher
from vitas_ds.errors import UserError
from vitas_ds.run.files import write_json
from vitas_ds.stages.model_folders import check_fits, check_inherits, check_teacher, find_model, is_unfinished

SPACE = SearchSpace(
    image_size=28, patch_sizes=(7,), depth=2, num_heads=(2,), embed_dim=32, qkv_dim=96, mlp_dim=64, ratios=(0.5, 1.0),
    num_classes=10,
)  # fmt: skip
SPEC = SubnetSpec(28, 7, 16, 10, (LayerSpec(2, 96, 32), LayerSpec(2, 48, 64)))


def write_model(folder: Path, spec: SubnetSpec = SPEC) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"")
    write_json(folder / "spec.json", spec.to_dict())
    return folder


def test_a_folder_a_run_and_nothing(tmp_path: Path) -> None:
    assert find_model(str(write_model(tmp_path / "net")), "f") == tmp_path / "net"
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(UserError, match=r"^f: .*run: not the folder of an exported model or of a run$"):
        find_model(str(run), "f")
    assert not is_unfinished(str(run))
    (run / "config.yaml").write_text("")
    assert is_unfinished(str(run))
    with pytest.raises(UserError, match=r"^f: .*run: this run has not retrained a network yet; finish its stage"):
        find_model(str(run), "f")
    write_model(run / "retrain" / "model")
    assert find_model(str(run), "f") == run / "retrain" / "model" and not is_unfinished(str(run))
    with pytest.raises(UserError, match=r"^f: deit-s is a published network without weights; .*retrain.spec=deit-s$"):
        find_model("deit-s", "f")


@pytest.mark.parametrize("field", ["image_size", "num_classes"])
def test_another_image_size_or_number_of_classes(tmp_path: Path, field: str) -> None:
    check_fits(write_model(tmp_path / "good"), "f", SPACE)
    other = write_model(tmp_path / "other", replace(SPEC, **{field: 14}))
    expected = getattr(SPACE, field)
    with pytest.raises(
        UserError, match=rf"^f: .*other has {field} 14, space.{field} is {expected}; they must be equal$"
    ):
        check_fits(other, "f", SPACE)


def test_a_teacher_of_timm_without_its_prefix() -> None:
    hint = "retrain.teacher.model: resnet18: no such folder; a network of timm is retrain.teacher.model=timm:resnet18"
    with pytest.raises(UserError, match=rf"^{hint}$"):
        check_teacher(Teacher(model="resnet18", weights="net.pth"), "retrain", SPACE)
    for other in (Teacher(model="resnet18"), Teacher(model="runs/none", weights="net.pth")):
        with pytest.raises(UserError, match=r": not the folder of an exported model or of a run$"):
            check_teacher(other, "retrain", SPACE)


def test_networks_without_weights_in_the_supernet() -> None:
    check_inherits(SPEC, SPACE)
    check_inherits(replace(SPEC, image_size=224, num_classes=1000), SPACE)  # retrain uses those of the recipe
    for spec in (replace(SPEC, embed_dim=24), replace(SPEC, layers=SPEC.layers * 2), find_spec("deit-ti")):
        with pytest.raises(UserError, match=r"^retrain.init: supernet: .*; use retrain.init=scratch$") as error:
            check_inherits(spec, SPACE)
        assert "\n" not in str(error.value)
