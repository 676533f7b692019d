"""Checkpoints in DeepSpeed's format: those of ``engine.save_checkpoint`` have the weights of the engine, bit for bit,
and our own resume bitwise.

References: the tensors of the engine, and DeepSpeed's ``zero_to_fp32.py``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.deepspeed_tasks import CASES
from tests.distributed.worker import SPACE, STAGES
from tests.helpers import toy_supernet as toy
from tests.helpers.launching import launch, run_commands
from vitas_ds import config
from vitas_ds.distributed import comm
from vitas_ds.errors import UserError
from vitas_ds.models.supernet import Supernet
from vitas_ds.run.run_dir import RunDir
from vitas_ds.stages.trained_supernet import load_supernet
from vitas_ds.training import checkpoint
from vitas_ds.training.checkpoint_reader import consolidate
from vitas_ds.training.resume import find_origin, load_weights


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, Any]:
    folder, ranks = tmp_path_factory.mktemp("deepspeed"), request.param
    launcher = "deepspeed" if ranks == 2 else "alone"
    rows = launch(folder / "out.json", "deepspeed", str(folder), ranks=ranks, launcher=launcher, limit=400)
    return folder, ranks, rows


def test_weights_equal_those_of_the_engine_and_of_deepspeed(saved: tuple[Path, int, Any]) -> None:
    rows = saved[2]["foreign"]
    assert [row["zero"] for row in rows] == list(STAGES)
    for row in rows:
        assert row["engine"] == 0 and row.get("zero_to_fp32", 0) == 0, row
        assert ("zero_to_fp32" in row) == (row["zero"] != "zero0")


def test_resume_in_the_format_of_deepspeed(saved: tuple[Path, int, Any]) -> None:
    """A resumed run is bitwise equal; DeepSpeed's loader, zero_to_fp32 and ds_to_universal read its checkpoints."""
    _, ranks, result = saved
    if ranks == 1:
        pytest.skip("the job of one rank writes no checkpoints of ours: it would repeat that of two")
    assert [row["zero"] for row in result["resume"]] == [case.zero for case in CASES]
    for row in result["resume"]:
        assert row["state"] == {"epoch": 1} and row["norms"] and row["latest"] == "step-00000004", row
        assert not row["loaded"] and not row["differ"] and not row["native"] and row["weights"] == 0, row
        if row["zero"] != "zero0":
            assert row["zero_to_fp32"] == row["universal_weights"] == 0 and row["universal"] == {"differ": []}, row


def test_resume_with_another_number_of_ranks(saved: tuple[Path, int, Any]) -> None:
    """The checkpoints of two ranks go on with one, in another ZeRO stage. Reference: plain torch."""
    folder, ranks, _ = saved
    if ranks == 1:
        pytest.skip("the job of one rank writes no checkpoints of ours")
    for index, case in enumerate(CASES):
        path, other = folder / f"{index}-{case.zero}" / "step-00000004", replace(case, zero="zero1", flat=not case.flat)
        engine = toy.start(other, comm.init("cpu", timeout=60))
        assert checkpoint.load(engine, path) == {"epoch": 1}
        for kind, ema in (("weight", False), ("ema", True)):
            expected = toy.gather_tensors(engine, kind) | {"scale": torch.tensor([0.5])}
            assert toy.max_difference(consolidate(path, ema), expected) == 0
        toy.train(engine, other, 4, 8)
        if case.precision == "fp32":
            weights, averages, _ = toy.reference(replace(case, zero="zero0", flat=False))
            assert toy.max_difference(toy.gather_tensors(engine), weights) < 1e-6, case
            assert toy.max_difference(toy.gather_tensors(engine, "ema"), averages) < 1e-6, case


def test_consolidate_reads_them(saved: tuple[Path, int, Any]) -> None:
    folder, _, _ = saved
    zero3, tag, ema = run_commands(
        ["consolidate", str(folder / "zero3"), "--out", str(folder / "zero3.safetensors")],
        ["consolidate", str(folder / "zero1" / "tag"), "--out", str(folder / "zero1.safetensors")],
        ["consolidate", str(folder / "zero1"), "--ema", "--out", str(folder / "ema.safetensors")],
    )
    assert (zero3.returncode, tag.returncode, ema.returncode) == (0, 0, 2), (zero3.stderr, tag.stderr)
    for name in ("zero1", "zero3"):
        written, expected = load_file(folder / f"{name}.safetensors"), consolidate(folder / name)
        assert written.keys() == expected.keys() and all((written[key] == expected[key]).all() for key in expected)
    assert "a checkpoint of DeepSpeed has none" in ema.stderr and len(ema.stderr.splitlines()) == 1


def test_the_search_and_init_weights_read_them(saved: tuple[Path, int, Any]) -> None:
    folder, _, _ = saved
    for zero in ("zero0", "zero2", "zero3"):
        search = config.Search(checkpoint=str(folder / zero))
        supernet, _ = load_supernet(config.Config(space=SPACE, search=search), RunDir(folder / "run"))
        expected = consolidate(folder / zero)
        assert all(torch.equal(value, expected[name]) for name, value in supernet.state_dict().items())
        origin = find_origin(folder / "none", config.Training(init_weights=str(folder / zero)), "retrain")
        loaded = Supernet(SPACE, "bilateral", 2)
        load_weights(loaded, origin.weights)
        assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    with pytest.raises(UserError, match=r"resume_from: .*only weights can be read; set supernet\.init_weights"):
        find_origin(folder / "none", config.Training(resume_from=str(folder / "zero1")), "supernet")


@pytest.mark.parametrize("zero", ["zero1", "zero3"])
def test_a_missing_file_of_a_rank(saved: tuple[Path, int, Any], zero: str) -> None:
    folder, ranks, _ = saved
    file = folder / zero / "tag" / f"zero_pp_rank_{ranks - 1}_mp_rank_00_optim_states.pt"
    content = file.read_bytes()
    file.unlink()
    (done,) = run_commands(["consolidate", str(folder / zero), "--out", str(folder / "x.safetensors")])
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert f"{file} is missing: {ranks} ranks saved this checkpoint" in done.stderr
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged or unreadable"):
        consolidate(folder / zero)
    file.write_bytes(content)
