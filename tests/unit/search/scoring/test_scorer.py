"""Scores with a real supernet: against a plain count, for any way to share the work between ranks."""

import math
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.scorers import LABELS, PIXELS, SPECS, prepare, scorer
from vitas_ds.distributed import preemption
from vitas_ds.errors import Preempted, UserError
from vitas_ds.models.flat import named_tensors
from vitas_ds.search.scoring.candidate import score_from_counts
from vitas_ds.search.scoring.scorer import balanced_order


@pytest.mark.parametrize("sharing", ["ordinal", "bilateral", "cyclic"])
@pytest.mark.parametrize("rule", ["accuracy_mean", "logit_sum"])
def test_the_score_is_the_share_of_correct_answers(sharing, rule):
    use = scorer(50, sharing=sharing, side_rule=rule)
    with torch.no_grad():
        for spec, score in zip(SPECS, use(SPECS), strict=True):
            logits = use.supernet(prepare(PIXELS[use.order]), spec)
            labels = LABELS[use.order]
            if rule == "logit_sum":
                each = (logits.sum(0).argmax(-1) == labels).double()
            else:
                each = (logits.argmax(-1) == labels).double().mean(0)
            assert score.value == pytest.approx(each.mean().item(), abs=1e-12)
            assert score.stderr == pytest.approx(each.std().item() / math.sqrt(50), abs=1e-12)
            assert score.images == use.images == 50
    assert 0 < score.value < 1


def test_a_stop_signal_ends_scoring_after_the_current_candidate():
    """A real SIGTERM while the first of five subnets is scored: its score is the last one."""
    use, scores = scorer(), []
    expected = next(use(SPECS))
    with preemption.catch_signals(), pytest.raises(Preempted, match="start it again"):
        os.kill(os.getpid(), signal.SIGTERM)
        for score in use(SPECS):
            scores.append(score)
    assert scores == [expected]
    with preemption.catch_signals():  # a signal during an earlier stage of this process has no effect
        assert not preemption.requested() and len(list(use(SPECS))) == len(SPECS)


@pytest.mark.parametrize("members", [1, 2, 4, 0])
def test_members_share_the_batches_of_a_candidate(members):
    """The counts of a group's ranks add up to those of a single rank. A rank may have no batch at all."""
    single = scorer().count(SPECS[0])
    parts = [scorer(0, rank, 4, ranks_per_candidate=members).count(SPECS[0], rank) for rank in range(members or 4)]
    assert torch.equal(sum(parts), single)


def test_scores_are_the_same_for_any_number_of_ranks_and_group_size():
    """Computes each rank's contribution to the sum over ranks separately."""
    expected = list(scorer()(SPECS))
    for world, members in [(2, 1), (2, 2), (3, 1), (4, 2), (8, 0)]:
        totals = torch.zeros(len(SPECS), 91, dtype=torch.int64)
        for rank in range(world):
            use = scorer(0, rank, world, ranks_per_candidate=members)
            group, member = divmod(rank, members or world)
            for i in range(group, len(SPECS), world // (members or world)):
                totals[i] += use.count(SPECS[i], member)
        points, max_points = totals[:, :-1], totals[:, -1]
        counts = torch.stack([points.sum(1), (points**2).sum(1), torch.full_like(max_points, 90), max_points], 1)
        assert [score_from_counts(*row) for row in counts.tolist()] == expected


def test_scores_can_include_the_points_of_each_image():
    """One digit per image in their order: the number of correct sides. The counts are their sums."""
    use = scorer()
    scores = list(replace(use, keep_points=True)(SPECS))
    assert [replace(score, points=None) for score in scores] == list(use(SPECS))
    for spec, score in zip(SPECS, scores, strict=True):
        with torch.inference_mode():
            logits = use.supernet(use.prepare(use.pixels[use.order]), spec)
        correct = (logits.argmax(-1) == use.labels[use.order]).sum(0)
        assert [int(c) for c in score.points] == correct.tolist()


def test_an_invalid_group_size_is_an_error():
    with pytest.raises(UserError, match=r"search\.ranks_per_candidate: 3 does not divide the 4 ranks"):
        scorer(0, 0, 4, ranks_per_candidate=3)


def test_scoring_does_not_change_the_supernet():
    use = scorer()
    before = {name: value.clone() for name, value in use.supernet.state_dict().items()}
    use.supernet.train()
    list(use(SPECS[:2]))
    assert all(torch.equal(before[name], value) for name, value in use.supernet.state_dict().items())
    assert all(p.grad is None and not p.is_inference() for p in use.supernet.parameters())


def test_nan_logits_are_incorrect():
    use = scorer()
    torch.nn.init.constant_(named_tensors(use.supernet)["head.bias"], math.nan)
    assert next(use(SPECS[:1])).value == 0


def test_reduced_precision_is_close():
    low = replace(scorer(), autocast=torch.bfloat16)
    for exact, rough in zip(scorer()(SPECS), low(SPECS), strict=True):
        assert abs(exact.value - rough.value) <= 0.15


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(0, 99))
def test_every_prefix_of_the_order_is_balanced(labels, seed):
    labels = np.array(labels)
    order = balanced_order(labels, 0, seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    sizes = np.bincount(labels)
    for end in range(1, len(labels) + 1):
        assert (order[:end] == balanced_order(labels, end, seed)).all()
        counts = np.bincount(labels[order[:end]], minlength=len(sizes))
        for a in range(len(sizes)):  # ahead by at most one of any class that still has images
            assert all(counts[a] <= counts[b] + 1 or counts[b] == sizes[b] for b in range(len(sizes)))


def test_too_many_images_is_an_error():
    with pytest.raises(UserError, match=r"search\.images: 91 is above the 90"):
        balanced_order(LABELS.numpy(), 91, 0)
