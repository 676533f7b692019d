"""Checkpoints of the first release: equal logits, and a one-line error for every other file."""

import os
import pickle
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.helpers.first_release import FIXTURE, seeded_tensors, tensor_shapes, write_checkpoint
from vitas_ds.arch.published import published
from vitas_ds.errors import UserError
from vitas_ds.export.first_release import import_first_release


@pytest.mark.parametrize("name", ["vitas-a", "vitas-c"])
def test_logits_equal_the_first_release(name, tmp_path):
    assert sum(torch.Size(shape).numel() for shape in tensor_shapes(name).values()) == FIXTURE[name]["params"]
    assert len(tensor_shapes(name)) == FIXTURE[name]["tensors"]
    model = import_first_release(name, write_checkpoint(tmp_path / "a.pth.tar", seeded_tensors(name)))
    assert not model.training
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        logits = model(images)
    expected = torch.tensor(FIXTURE[name]["logits"])
    print("largest difference", (logits[:, : expected.shape[1]] - expected).abs().max().item())
    torch.testing.assert_close(logits[:, : expected.shape[1]], expected, rtol=0, atol=1e-4)
    assert logits.double().sum(1).tolist() == pytest.approx(FIXTURE[name]["sums"], abs=0.02)


@pytest.mark.parametrize(("name", "change"), [("vitas-a", "eps"), ("vitas-a", "scale"), ("vitas-c", "scale")])
def test_softmax_scale_and_eps_change_the_logits(name, change, tmp_path):
    """With the defaults of new networks, the logits differ from the fixture."""
    model = import_first_release(name, write_checkpoint(tmp_path / "a.pth.tar", seeded_tensors(name)))
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        before = model(images)
        if change == "eps":  # 1e-6 would change less than the fixture's digits; the assert below checks the value
            model.spec = replace(model.spec, final_norm_eps=1e-2)
            assert published(name, first_release=True).spec.final_norm_eps == 1e-5
        else:
            for block in model.blocks:
                block.layer = replace(block.layer, softmax_scale=None)
        assert (model(images) - before).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["vitas-b", "vitas-e", "vitas-f"])
def test_tensor_names_of_the_other_networks(name, tmp_path):
    values = {key: torch.zeros(shape) for key, shape in tensor_shapes(name).items()}
    model = import_first_release(name, write_checkpoint(tmp_path / "a.pth.tar", values))
    assert sum(p.numel() for p in model.parameters()) == sum(v.numel() for v in values.values())


BIAS, WEIGHT = "module.net.backbone_FC_FC_0.0.module.0.bias", "module.net.backbone_Block_Block_5.0.mlp.fc1.weight"


def without_weight(values: dict) -> dict:
    return {key: value for key, value in values.items() if key != WEIGHT}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_weight, f"tensor {WEIGHT} is missing"),
        (lambda v: v | {"module.net.more": torch.zeros(1)}, "unexpected tensor module.net.more"),
        (lambda v: v | {BIAS: torch.zeros(999)}, f"{BIAS} has shape [999], expected [1000]"),
        (lambda v: v | {BIAS: "text"}, "no dict of tensors"),
        (lambda v: v | {3: torch.zeros(1)}, "unexpected tensor 3"),
    ],
)
def test_the_wrong_tensor_is_named(change, message, tmp_path):
    path = write_checkpoint(
        tmp_path / "a.pth.tar", change({k: torch.zeros(s) for k, s in tensor_shapes("vitas-a").items()})
    )
    assert_refused("vitas-a", path, message)


def test_a_file_of_another_network_is_refused(tmp_path):
    path = write_checkpoint(tmp_path / "a.pth.tar", {k: torch.zeros(s) for k, s in tensor_shapes("vitas-b").items()})
    assert_refused("vitas-a", path, "not a checkpoint of vitas-a")


class Code:
    """A pickle that creates a folder if its code is executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_the_file_does_not_run(legacy, tmp_path):
    path, trace = tmp_path / "a.pth.tar", tmp_path / "ran"
    data = {"model": {}, "epoch": Code(trace)}
    torch.save(data, path, _use_new_zipfile_serialization=not legacy)
    assert_refused("vitas-a", path, "contains objects other than tensors, which are not loaded: posix.mkdir")
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # the trap works: only import_first_release did not execute it


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a torch checkpoint"),
        (b"not a checkpoint at all", "not a torch checkpoint"),
        (b"PK\x03\x04 a truncated zip file", "not a torch checkpoint"),
        (pickle.dumps([1, 2]), "not a torch checkpoint"),
        (random.Random(0).randbytes(5000), "not a torch checkpoint"),
        (None, "no such file"),
    ],
)
def test_a_file_that_is_not_a_checkpoint(content, message, tmp_path):
    path = tmp_path / "a.pth.tar"
    if content is not None:
        path.write_bytes(content)
    assert_refused("vitas-a", path, message)


def test_a_truncated_checkpoint(tmp_path):
    path = write_checkpoint(tmp_path / "a.pth.tar", seeded_tensors("vitas-a"))
    path.write_bytes(path.read_bytes()[:-5000])
    assert_refused("vitas-a", path, "not a torch checkpoint")


def test_folders_and_other_objects_are_refused(tmp_path):
    assert_refused("vitas-a", tmp_path, "")
    path = tmp_path / "a.pth.tar"
    torch.save({"state_dict": {}}, path)
    assert_refused("vitas-a", path, "no dict of tensors under the key 'model'")
    torch.save([torch.zeros(1)], path)
    assert_refused("vitas-a", path, "no dict of tensors under the key 'model'")


def test_networks_without_a_first_release_checkpoint(tmp_path):
    path = write_checkpoint(tmp_path / "a.pth.tar", {})
    with pytest.raises(UserError, match="deit-ti"):
        import_first_release("deit-ti", path)
    with pytest.raises(UserError, match="no such published network"):
        import_first_release("vitas-d", path)


def assert_refused(name: str, path: Path, message: str) -> None:
    """Assert that the error is one line with the file and the message."""
    with pytest.raises(UserError) as error:
        import_first_release(name, path)
    line = str(error.value)
    assert message in line
    assert line.startswith(str(path))
    assert "\n" not in line and len(line) < 400, line
