"""What a checkpoint keeps of the loop comes back, and other images than before are refused."""

from __future__ import annotations

import json

import pytest
import torch

from vitas_ds.distributed import Ranks
from vitas_ds.errors import UserError
from vitas_ds.progress import Progress, progress_of, state_of

ALONE = Ranks(0, 1, 0, torch.device("cpu"))


def test_round_trip_through_json() -> None:
    progress = Progress(step=7, seconds=1.25, loss_sum=0.1 + 0.2, loss_steps=3, loss=2.0, replaced=1, files="abc")
    state = json.loads(json.dumps(state_of(progress)))
    assert progress_of(state, ALONE, "abc") == progress


def test_two_ranks_sums_go_on_with_one() -> None:
    state = state_of(Progress(files="abc")) | {"loss_sum": [3.0, 5.0], "replaced": [1, 2]}
    both = [progress_of(state, Ranks(r, 2, r, torch.device("cpu")), "abc") for r in range(2)]
    assert [p.loss_sum for p in both] == [3.0, 5.0] and [p.replaced for p in both] == [1, 2]
    lone = progress_of(state, ALONE, "abc")
    assert lone.loss_sum == 4.0  # the mean over ranks stays
    assert lone.replaced == 3


def test_other_images_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"data\.train") as error:
        progress_of(state_of(Progress(files="abc")), ALONE, "xyz")
    assert "\n" not in str(error.value)
