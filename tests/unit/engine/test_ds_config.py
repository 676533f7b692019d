"""The DeepSpeed configuration: settings of the run, and rejected files.

References: values by hand, and the packaged JSON files.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from vitas_ds import config
from vitas_ds.engine.ds_config import ds_config, zero_stage
from vitas_ds.errors import UserError

ALL = ["zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"]


@pytest.mark.parametrize("name", ALL)
def test_settings_of_the_run_are_included(name: str) -> None:
    training = config.Training(batch_size=96, grad_accum_steps=3, clip_grad=0.7)
    settings = ds_config(config.Engine(zero=name), training, world_size=8)
    assert settings["train_batch_size"] == 96
    assert settings["train_micro_batch_size_per_gpu"] == 4
    assert settings["gradient_accumulation_steps"] == 3
    assert settings["gradient_clipping"] == 0.7
    assert settings["zero_optimization"]["stage"] == int(name[4])
    assert zero_stage(config.Engine(zero=name)) == (int(name[4]), "offload" in name)


def test_no_clipping_is_explicit() -> None:  # without the key, DeepSpeed clips at 1.0
    assert ds_config(config.Engine(), config.Training(), 1)["gradient_clipping"] == 0.0


def test_the_throughput_timer_is_off() -> None:
    """DeepSpeed's timer waits for the device. The reference is what DeepSpeed reads from the configuration."""
    from deepspeed.utils.config import get_timers_config

    assert (
        get_timers_config({}).enabled
        and not get_timers_config(ds_config(config.Engine(), config.Training(), 1)).enabled
    )


def test_every_file_is_tested() -> None:
    folder = ROOT / "ds_configs"
    assert sorted(p.stem for p in folder.glob("*.json")) == sorted(ALL)


def check_refused(tmp_path: Path, content: object, *texts: str) -> None:
    path = tmp_path / "own.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError) as error:
        ds_config(config.Engine(zero=str(path)), config.Training(), 1)
    for text in (str(path), *texts):
        assert text in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "key",
    ["train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping",
     "optimizer", "scheduler", "bf16", "fp16", "torch_autocast", "timers"],
)  # fmt: skip
def test_a_file_with_a_setting_of_the_run_is_refused(tmp_path: Path, key: str) -> None:
    check_refused(tmp_path, {"zero_optimization": {"stage": 1}, key: 1}, key, "set by the run's config")


@pytest.mark.parametrize(
    ("zero", "problem"),
    [
        ({"stage": 4}, "stage must be"),
        ({"stage": True}, "stage must be"),
        ({"reduce_bucket_size": 5e8}, "stage must be 0, 1, 2 or 3 (given: null)"),
        ({"stage": 1, "reduce_bucket_size": "large"}, 'reduce_bucket_size must be a whole number (given: "large")'),
        ({"stage": 1, "allgather_bucket_size": -1}, "allgather_bucket_size must be a whole number"),
        ({"stage": 1, "allgather_bucket_size": 1e400}, "allgather_bucket_size must be a whole number"),
        ({"stage": 2, "contiguous_gradients": "yes"}, "contiguous_gradients must be true or false"),
        ({"stage": 2, "offload_optimizer": "cpu"}, "offload_optimizer must be an object"),
        ({"stage": 2, "offload_optimizer": {"device": "cpu", "pin": True}}, "offload_optimizer must be an object"),
        ({"stage": 3, "offload_param": {"device": "cpu"}}, "offload_param"),
        ({"stage": 2, "offload_optimizer": {"device": "nvme"}}, "device cpu"),
        ({"stage": 2, "round_robin_gradients": True}, "round_robin_gradients"),
        ({"stage": 1, "overlap_comm": True}, "overlap_comm"),
        ({"stage": 1, "zero_quantized_weights": True}, "zero_quantized_weights"),
        ({"stage": 0, "offload_optimizer": {"device": "cpu"}}, "needs stage"),
    ],
)
def test_unsupported_values_are_refused(tmp_path: Path, zero: dict[str, object], problem: str) -> None:
    check_refused(tmp_path, {"zero_optimization": zero}, problem)


def test_other_files_are_refused(tmp_path: Path) -> None:
    check_refused(tmp_path, "{", "not a JSON file (line 1, column 2")
    check_refused(tmp_path, [1], "must be a JSON object")
    check_refused(tmp_path, {"zero_optimization": 3}, "must be a JSON object")
    check_refused(tmp_path, {"zero_optimisation": {"stage": 3}}, "must be a JSON object with zero_optimization")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UserError, match=r"folder\.json: is a folder, not a file"):
        ds_config(config.Engine(zero=f"{tmp_path}/folder.json"), config.Training(), 1)


def test_an_unknown_name_lists_the_allowed_ones() -> None:
    with pytest.raises(UserError, match="zero0, zero1, zero2, zero2_offload, zero3, zero3_offload"):
        ds_config(config.Engine(zero="zero9"), config.Training(), 1)


def test_an_indivisible_batch_size_is_refused() -> None:
    with pytest.raises(UserError, match=r"^batch_size: 100 .* 8 ranks x grad_accum_steps=1$"):
        ds_config(config.Engine(), config.Training(batch_size=100), 8)
