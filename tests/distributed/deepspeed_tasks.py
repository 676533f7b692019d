"""Tasks of worker.py: training with checkpoints in DeepSpeed's format."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from tests.helpers import toy_supernet as toy
from tests.helpers.toy_supernet import Case
from vitas_ds.distributed import comm
from vitas_ds.distributed.comm import Ranks
from vitas_ds.engine.engine import Engine
from vitas_ds.errors import UserError
from vitas_ds.models.flat import tensor_places
from vitas_ds.training import checkpoint
from vitas_ds.training.checkpoint_reader import consolidate

CASES = [
    Case("zero0", clip=1.0, ema=0.9, subnets=2), Case("zero0", clip=1.0, ema=0.9, flat=True),
    Case("zero1", "bf16", clip=1.0, ema=0.9, flat=True), Case("zero2", clip=1.0, ema=0.9, subnets=2),
    Case("zero3", clip=1.0, ema=0.9, flat=True), Case("zero3_offload", clip=1.0, ema=0.9, subnets=2),
]  # fmt: skip


def deepspeed_resume(ranks: Ranks, folder: str) -> list[dict[str, Any]]:
    """8 steps against 4 steps, save, load into a new engine, 4 steps; what DeepSpeed's tools make of the checkpoint."""
    rows = []
    for index, case in enumerate(CASES):
        directory = Path(folder) / f"{index}-{case.zero}"
        uninterrupted, interrupted = toy.start(case, ranks), toy.start(case, ranks)
        norms = toy.train(uninterrupted, case, 0, 8)
        toy.train(interrupted, case, 0, 4)
        with checkpoint.Saver(interrupted, directory, deepspeed=True) as saver:
            path = saver.save(4, {"epoch": 1})
            saved = toy.full_state(interrupted)
            toy.train(interrupted, case, 4, 5)  # the save is in flight
            saver.wait()
        resumed = toy.start(case, ranks)
        state = checkpoint.load(resumed, path)
        row = {"case": str(case), "zero": case.zero, "state": state, "loaded": _differing(resumed, saved)}
        row["norms"] = toy.train(resumed, case, 4, 8) == norms[4:]
        row["differ"] = _differing(resumed, toy.full_state(uninterrupted))
        row["native"] = _load_with_deepspeed(toy.start(case, ranks), directory, path.name, saved)
        universal = directory.with_name(f"{directory.name}-universal")
        row |= comm.from_main(partial(_tools, resumed.model, path, universal, saved))
        if interrupted.stage:
            row["universal"] = _resume_universal(case, ranks, universal, saved)
        rows.append(row)
    return rows


def _differing(engine: Engine, expected: dict[str, Tensor]) -> list[str]:
    found = toy.full_state(engine)
    return [name for name in expected if not torch.equal(found[name], expected[name])]


def _load_with_deepspeed(engine: Engine, directory: Path, tag: str, expected: dict[str, Tensor]) -> list[str]:
    """Load with DeepSpeed's own function, and return the tensors that differ."""
    _, client = engine.ds.load_checkpoint(str(directory), tag)
    engine.averages = {tensor: engine.optimizer.state[tensor]["ema"] for tensor in engine.owned}
    assert client["vitas_ds"]["loop"] == {"epoch": 1}
    engine.restore(client["vitas_ds"]["engine"])
    return _differing(engine, expected)


def _tools(model: torch.nn.Module, path: Path, universal: Path, expected: dict[str, Tensor]) -> dict[str, Any]:
    """Compare ``consolidate`` with DeepSpeed's ``zero_to_fp32``, and convert to a universal checkpoint."""
    from deepspeed.checkpoint import ds_to_universal
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    weights = consolidate(path)
    row: dict[str, Any] = {
        "weights": max(float((weights[n.removeprefix("weight/")] - t).abs().max())
                       for n, t in expected.items() if n.startswith("weight/")),
        "latest": (path.parent / "latest").read_text(),
    }  # fmt: skip
    if "zero0" in str(path):  # zero_to_fp32 and ds_to_universal do not read stage 0
        return row
    theirs = get_fp32_state_dict_from_zero_checkpoint(str(path.parent))
    names = {parameter: f"model.{name}" for name, parameter in model.named_parameters()}
    cut = {name: place.within(theirs[names[place.parameter]]) for name, place in tensor_places(model).items()}
    row["zero_to_fp32"] = max(float((cut[name] - weights[name]).abs().max()) for name in cut)
    arguments = [
        "ds_to_universal", "--input_folder", str(path), "--output_folder", str(universal), "--num_extract_workers",
        "1", "--num_merge_workers", "1",
    ]  # fmt: skip
    with mock.patch.object(sys, "argv", arguments):
        ds_to_universal.main(ds_to_universal.parse_arguments())
    found = consolidate(universal)
    row["universal_weights"] = max(float((found[name] - weights[name]).abs().max()) for name in weights)
    return row


def _resume_universal(case: Case, ranks: Ranks, universal: Path, expected: dict[str, Tensor]) -> dict[str, Any]:
    """Load the universal checkpoint under another ZeRO stage: weights, moments and step counts, but no averages."""
    engine = toy.start(Case("zero1" if case.zero == "zero3" else "zero3", ema=0.9), ranks)
    try:
        checkpoint.load(engine, universal)
    except UserError as error:
        return {"error": str(error)}
    return {"differ": [name for name in _differing(engine, expected) if not name.startswith("ema/")]}
