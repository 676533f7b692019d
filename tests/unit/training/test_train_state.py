"""The loop state survives a checkpoint, and other training images are refused.

References: the state before the round trip, and means by hand.
"""

from __future__ import annotations

import json

import pytest
import torch

from vitas_ds.distributed.comm import Ranks
from vitas_ds.errors import UserError
from vitas_ds.training.train_state import TrainState

ALONE = Ranks(0, 1, 0, torch.device("cpu"))


def test_round_trip_through_json() -> None:
    state = TrainState(
        step=7, seconds=1.25, loss_sum=0.1 + 0.2, loss_steps=3, loss=2.0, replaced=1, files="abc", teacher="x",
        accuracy=0.625, accuracy_step=6, best_accuracy=0.75,
    )  # fmt: skip
    state.update_mean(0.7, 5)
    saved = json.loads(json.dumps(state.to_dict()))
    assert TrainState.from_dict(saved, ALONE, "abc") == state


@pytest.mark.parametrize(
    ("accuracy", "at", "best", "expected"),
    [
        (None, -1, None, False), (0.5, 7, None, True), (0.5, 6, None, False), (0.5, 7, 0.5, False),
        (0.51, 7, 0.5, True),
    ],
)  # fmt: skip
def test_the_best_accuracy(accuracy: float | None, at: int, best: float | None, expected: bool) -> None:
    assert TrainState(7, accuracy=accuracy, accuracy_step=at, best_accuracy=best).is_best == expected


def test_the_accuracy_of_another_run_is_forgotten() -> None:
    state = TrainState(7, loss=2.0, accuracy=0.5, accuracy_step=7, best_accuracy=0.9)
    state.forget_accuracy()
    assert state == TrainState(7, loss=2.0) and not state.is_best
    state.accuracy, state.accuracy_step = 0.1, 7
    assert state.is_best


def test_another_number_of_ranks() -> None:
    saved = TrainState(files="abc").to_dict() | {"loss_sum": [3.0, 5.0], "mean": [1.0, 2.0], "replaced": [1, 2]}
    two = [TrainState.from_dict(saved, Ranks(r, 2, r, torch.device("cpu")), "abc") for r in range(2)]
    assert [s.loss_sum for s in two] == [3.0, 5.0] and [s.replaced for s in two] == [1, 2]
    one = TrainState.from_dict(saved, ALONE, "abc")
    assert one.loss_sum == 4.0  # the mean over the ranks stays the same
    assert one.mean == 1.5
    assert one.replaced == 3
    three = [TrainState.from_dict(saved, Ranks(r, 3, r, torch.device("cpu")), "abc") for r in range(3)]
    assert sum(s.mean for s in three) / 3 == sum(s.loss_sum for s in three) / 3 - 2.5 == 1.5


def test_a_checkpoint_without_a_mean_and_a_teacher() -> None:
    saved = TrainState(files="abc").to_dict()
    del saved["mean"], saved["mean_steps"], saved["teacher"]
    assert TrainState.from_dict(saved, ALONE, "abc") == TrainState(files="abc")


def test_the_mean_of_all_steps_becomes_a_running_mean() -> None:
    state, losses = TrainState(), [5.0, 1.0, 3.0, 3.0]
    for loss in losses:
        state.update_mean(loss, 4)
    assert state.mean == pytest.approx(sum(losses) / 4)
    for _ in range(12):  # after three windows, a twentieth of the old mean is left
        state.update_mean(1.0, 4)
    assert 1.0 < state.mean < 1.1


def test_other_images_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"data\.train") as error:
        TrainState.from_dict(TrainState(files="abc").to_dict(), ALONE, "xyz")
    assert "\n" not in str(error.value)
