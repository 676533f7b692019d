"""``config --world-size N``: the DeepSpeed configuration and the memory estimate for N ranks.

References: the estimate of the same settings, and sizes by hand.
"""

from __future__ import annotations

import json
import re

import pytest
import yaml

from vitas_ds.__main__ import main
from vitas_ds.arch import cost, genome
from vitas_ds.arch.space import WidthTable
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.engine.memory import activation_bytes, estimate
from vitas_ds.models.supernet import Supernet
from vitas_ds.recipe import load


def test_the_report_is_a_comment_of_the_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "quickstart"]) == 0
    plain = capsys.readouterr().out
    assert main(["config", "quickstart", "--world-size", "8", "engine.zero=zero2", "supernet.batch_size=128"]) == 0
    text = capsys.readouterr().out
    assert "#" not in plain and len(text) > len(plain)
    resolved = load("quickstart", ["engine.zero=zero2", "supernet.batch_size=128"])
    assert yaml.safe_load(text) == resolved.model_dump(mode="json")


def test_the_report_equals_the_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "quickstart", "--world-size", "8", "engine.zero=zero2"]) == 0
    text = capsys.readouterr().out
    resolved = load("quickstart", ["engine.zero=zero2"])
    settings = [json.loads(line) for line in re.findall(r"^# DeepSpeed: (.*)$", text, re.M)]
    assert [s["train_micro_batch_size_per_gpu"] for s in settings] == [8, 8]
    assert all(s["zero_optimization"]["stage"] == 2 and s["gradient_clipping"] == 1.0 for s in settings)
    model = Supernet(resolved.space, resolved.supernet.sharing, 2)
    params = sum(p.numel() for p in model.parameters())
    largest = genome.decode(resolved.space, genome.largest(resolved.space))
    activations = len(model.sides) * cost.activations(WidthTable.from_specs([largest]))[0]
    memory = estimate(resolved.engine, resolved.supernet, 8, params, activations)
    rows = re.findall(r"^# zero2 +([\d. ]+)  <- engine.zero$", text, re.M)
    values = [memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.total, memory.host]
    assert len(rows) == 2 and rows[0].split() == [f"{value / 2**30:.2f}" for value in values]
    for zero in ("zero0", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload"):
        assert len(re.findall(rf"^# {zero} +[\d.]", text, re.M)) == 2


def test_activations_with_grad_checkpointing() -> None:
    """By hand: 4 patches and the class token, embed_dim 8; two layers keep their inputs, one is recomputed."""
    spec = SubnetSpec(16, 8, 8, 10, (LayerSpec(2, 12, 16),) * 2)
    layer = 4 * 5 * (4 * 8 + 4 + 4 * 4 + 2 + 16)  # the MLP saves its hidden channels before GELU
    ends = 4 * (4 * 3 * 64 + 8 + 8 + 2)  # patches; the class token and its norm
    assert activation_bytes(spec, grad_checkpointing=False) == ends + 2 * layer
    assert activation_bytes(spec, grad_checkpointing=True) == ends + layer + 2 * 4 * 5 * 8


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--world-size", "0"], "--world-size: must be 1 or more"),
        (["--world-size", "7"], "supernet.batch_size: 64 is not a multiple of 7 ranks"),
        (["--world-size", "2", "engine.zero=zero9"], "engine.zero: no file"),
    ],
)
def test_user_errors(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "quickstart", *arguments]) == 2
    captured = capsys.readouterr()
    assert line in captured.err and not captured.out


def test_arguments_without_a_value_are_refused() -> None:
    for arguments in (
        ["config", "quickstart", "--world-size", "2", "zero2"],
        ["doctor", "a.b=1"],
        ["space", "x", "--no"],
    ):
        with pytest.raises(SystemExit):
            main(arguments)
