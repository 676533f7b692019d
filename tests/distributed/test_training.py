"""Training under real launchers. Reference: plain torch in one process (`toy_supernet.reference`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.distributed.worker import STAGES, VARIANTS
from tests.helpers.launching import launch, slurm

CLOSE = 1e-6  # after 8 AdamW steps of lr 1e-2; with zeros as gradients of unused weights, the distance is 1e-2


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("results")
    launcher = "deepspeed" if request.param == 2 else "alone"
    result = launch(folder / "out.json", "everything", str(folder), ranks=request.param, launcher=launcher, limit=600)
    return result | {"ranks": request.param}


def test_every_stage_equals_plain_torch(results: Any) -> None:
    assert len(results["table"]) == 2 * 6 * (2 * 2 * 2 + 4)
    for row in results["table"]:
        print(row)
        assert not row["moved"], row
        if row["precision"] == "fp32":
            assert row["weights"] < CLOSE and row["ema"] < CLOSE and row["norms"] < CLOSE, row
            assert row["zero_grads"] > 1e-3  # the tolerance distinguishes the two
        else:  # sums in another order, rounded to 8 bits of mantissa
            assert row["norms"] < 1e-2 and row["weights"] < 2e-2 and row["ema"] < 2e-2, row


def test_the_supernet_equals_plain_torch(results: Any) -> None:
    assert [row["zero"] for row in results["supernet"]] == 2 * list(STAGES)
    for row in results["supernet"]:
        print(row)
        assert row["weights"] < 5e-5, row  # 6 steps of lr 1e-2


def test_resume_is_bitwise(results: Any) -> None:
    assert [tuple(row["variant"]) for row in results["resume"]] == VARIANTS
    for row in results["resume"]:
        assert row["state"] == {"epoch": 1}
        assert row["norms"] and not row["differ"], row
        assert row["buffer"] == 0.5
        assert row["saved"] == 0 and row["ema"] == 0, row  # consolidated weights equal those of the engine


def test_all_ranks_skip_a_step_with_a_nonfinite_gradient(results: Any) -> None:
    assert [tuple(row["variant"]) for row in results["nonfinite"]] == VARIANTS
    for row in results["nonfinite"]:
        assert len(row["norms"]) == results["ranks"] and not set(row["norms"]) - {"inf", "nan"}, row
        assert not row["moved"] and not row["later"], row


def test_loss_scale(results: Any) -> None:
    assert [tuple(row["variant"]) for row in results["loss_scale"]] == VARIANTS
    for row in results["loss_scale"]:
        assert row["norms"] and not row["differ"], row
        assert row["overflow"] in ("inf", "nan") and row["halved"] and not row["moved"], row


def test_resume_with_another_number_of_ranks_and_zero_stage(tmp_path: Path) -> None:
    chains = [("zero1", "zero1", "zero1"), ("zero3", "zero0", "zero2_offload")]
    rows = []
    for i, ranks in enumerate((2, 1, 2)):
        args = (str(tmp_path), str(3 * i), str(3 * i + 3), *(chain[i] for chain in chains))
        launcher = "torchrun" if ranks == 2 else "alone"
        rows.append(launch(tmp_path / "out.json", "continue_training", *args, ranks=ranks, launcher=launcher))
    for chain in zip(*rows, strict=True):
        assert [row["loaded"] for row in chain] == [None, "step-00000003", "step-00000006"]
        assert [row["world_size"] for row in chain] == [2, 1, 2]
        assert chain[1]["exact"] == chain[2]["exact"] == 0
        assert all(row["reference"] < CLOSE for row in chain), chain


@pytest.mark.parametrize("launcher", ["alone", "deepspeed", "torchrun", "srun"])
def test_collectives_under_every_launcher(tmp_path: Path, launcher: str) -> None:
    out = tmp_path / "out.json"
    n = 1 if launcher == "alone" else 2
    result = slurm(out, "collectives") if launcher == "srun" else launch(out, "collectives", ranks=n, launcher=launcher)
    assert result["ranks"] == [[rank, rank, n] for rank in range(n)]
    assert result["sum"] == sum(range(1, n + 1))
    assert result["broadcast"] == [{"from": 0}] * n and result["from_main"] == [0] * n
    assert all("division" in error for error in result["errors"])
