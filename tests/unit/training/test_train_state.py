"""What a checkpoint keeps of the loop comes back, and other images than before are refused."""

from __future__ import annotations

import json

import pytest
import torch

from vitas_ds.distributed.comm import Ranks
from vitas_ds.errors import UserError
from vitas_ds.training.train_state import Progress, progress_of, state_of

ALONE = Ranks(0, 1, 0, torch.device("cpu"))


def test_round_trip_through_json() -> None:
    progress = Progress(step=7, seconds=1.25, loss_sum=0.1 + 0.2, loss_steps=3, loss=2.0, replaced=1, files="abc")
    progress.learn(0.7, 5)
    state = json.loads(json.dumps(state_of(progress)))
    assert progress_of(state, ALONE, "abc") == progress


def test_two_ranks_sums_go_on_with_one() -> None:
    state = state_of(Progress(files="abc")) | {"loss_sum": [3.0, 5.0], "mean": [1.0, 2.0], "replaced": [1, 2]}
    both = [progress_of(state, Ranks(r, 2, r, torch.device("cpu")), "abc") for r in range(2)]
    assert [p.loss_sum for p in both] == [3.0, 5.0] and [p.replaced for p in both] == [1, 2]
    lone = progress_of(state, ALONE, "abc")
    assert lone.loss_sum == 4.0  # the mean over ranks stays
    assert lone.mean == 1.5
    assert lone.replaced == 3
    three = [progress_of(state, Ranks(r, 3, r, torch.device("cpu")), "abc") for r in range(3)]
    assert sum(p.mean for p in three) / 3 == sum(p.loss_sum for p in three) / 3 - 2.5 == 1.5


def test_a_checkpoint_without_a_mean() -> None:
    state = state_of(Progress(files="abc"))
    del state["mean"], state["mean_steps"]
    assert progress_of(state, ALONE, "abc") == Progress(files="abc")


def test_the_mean_is_over_all_steps_then_over_the_last_ones() -> None:
    progress, losses = Progress(), [5.0, 1.0, 3.0, 3.0]
    for loss in losses:
        progress.learn(loss, 4)
    assert progress.mean == pytest.approx(sum(losses) / 4)
    for _ in range(12):  # three windows on, a twentieth is left of what was
        progress.learn(1.0, 4)
    assert 1.0 < progress.mean < 1.1


def test_other_images_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"data\.train") as error:
        progress_of(state_of(Progress(files="abc")), ALONE, "xyz")
    assert "\n" not in str(error.value)
