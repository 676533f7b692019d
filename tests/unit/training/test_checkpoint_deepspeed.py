"""Files that pretend to be a checkpoint of DeepSpeed. Real ones are in tests/distributed/test_deepspeed_checkpoints.py.

Reference: a pickle with code, whose effect would be a file.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from vitas_ds.errors import UserError
from vitas_ds.training.checkpoint_deepspeed import find
from vitas_ds.training.checkpoint_reader import consolidate


class Code:
    """An object whose unpickling runs a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_no_code_runs(tmp_path: Path) -> None:
    torch.save({"module": {}, "x": Code(tmp_path / "ran")}, tmp_path / "mp_rank_00_model_states.pt")
    with pytest.raises(UserError, match="contains other objects than tensors and numbers") as raised:
        consolidate(tmp_path)
    assert not (tmp_path / "ran").exists() and "\n" not in str(raised.value)


def test_folders(tmp_path: Path) -> None:
    assert find(tmp_path) is None
    (tmp_path / "latest").write_text("step-1\n")
    with pytest.raises(UserError, match="latest: names step-1, which is not a checkpoint of DeepSpeed"):
        find(tmp_path)
    (tmp_path / "step-1").mkdir()
    torch.save({"module": {}}, tmp_path / "step-1" / "mp_rank_00_model_states.pt")
    assert find(tmp_path) == find(tmp_path / "step-1") == tmp_path / "step-1"
    with pytest.raises(UserError, match="without ZeRO stage or number of ranks"):
        consolidate(tmp_path / "step-1")


def test_a_flipped_byte_is_found_without_a_manifest(tmp_path: Path) -> None:
    """Reference: the checksums in the archive that torch.save writes."""
    file = tmp_path / "mp_rank_00_model_states.pt"
    module = {"a.weight": torch.randn(40, 40), "a.bias": torch.randn(40)}
    layout = {"ds_config": {"zero_optimization": {"stage": 0}}, "dp_world_size": 1, "buffer_names": []}
    torch.save({"module": module} | layout, file)
    assert torch.equal(consolidate(tmp_path)["a.weight"], module["a.weight"])
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"^{file}: damaged, the checksum of .* does not match$"):
        consolidate(tmp_path)
    file.write_bytes(content[:1000])
    with pytest.raises(UserError, match=rf"^{file}: damaged or unreadable"):
        consolidate(tmp_path)


def test_a_part_that_is_too_small_names_the_file_of_rank_0(tmp_path: Path) -> None:
    """As if the file came from a checkpoint of four ranks: half of the elements that each of two ranks has."""
    model = {
        "module": {"a": torch.zeros(8)}, "ds_config": {"zero_optimization": {"stage": 1}}, "dp_world_size": 2,
        "buffer_names": [], "param_shapes": [{"a": torch.Size([8])}],
    }  # fmt: skip
    torch.save(model, tmp_path / "mp_rank_00_model_states.pt")
    files = [tmp_path / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(2)]
    for file in files:
        torch.save({"optimizer_state_dict": {"single_partition_of_fp32_groups": [torch.zeros(2)]}}, file)
    with pytest.raises(UserError, match=rf"^{files[0]}: 2 elements of group 0, too few for 2 ranks; "):
        consolidate(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"module": 3}, [1, 2], {"module": {}, "ds_config": {"zero_optimization": {"stage": 7}}, "dp_world_size": 1},
        {"module": {}, "ds_config": {"zero_optimization": {"stage": 1}}, "dp_world_size": 1, "buffer_names": [],
         "param_shapes": [3]},
        {"module": {}, "ds_config": {"zero_optimization": {"stage": 0}}, "dp_world_size": 1, "buffer_names": [],
         "vitas_ds": {"kinds": 3}},
        {"module": {}, "ds_config": {"zero_optimization": {"stage": 0}}, "dp_world_size": 1, "buffer_names": [],
         "vitas_ds": 3},
    ],
)  # fmt: skip
def test_other_content_is_one_line(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "mp_rank_00_model_states.pt")
    with pytest.raises(UserError) as error:
        consolidate(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 300
