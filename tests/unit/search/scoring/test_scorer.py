"""Scores with a real supernet: against a plain count, however the ranks share the work."""

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
from vitas_ds.search.scoring.scorer import balanced_order, score_of


@pytest.mark.parametrize("sharing", ["ordinal", "bilateral", "cyclic"])
@pytest.mark.parametrize("rule", ["accuracy_mean", "logit_sum"])
def test_the_score_is_the_share_of_right_answers(sharing, rule):
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


def test_told_to_stop_the_round_is_finished():
    """A real SIGTERM while the first of five nets is scored: its score is the last."""
    use, scores = scorer(), []
    expected = next(use(SPECS))
    with preemption.listening(), pytest.raises(Preempted, match="start it again"):
        os.kill(os.getpid(), signal.SIGTERM)
        for score in use(SPECS):
            scores.append(score)
    assert scores == [expected]
    with preemption.listening():  # what an earlier stage of this process was told is over
        assert not preemption.asked() and len(list(use(SPECS))) == len(SPECS)


@pytest.mark.parametrize("members", [1, 2, 4, 0])
def test_members_share_the_batches_of_a_candidate(members):
    """The counts of a group's members add up to those of one rank; a member may have no batch at all."""
    whole = scorer().count(SPECS[0])
    parts = [scorer(0, rank, 4, ranks_per_candidate=members).count(SPECS[0], rank) for rank in range(members or 4)]
    assert torch.equal(sum(parts), whole)


def test_any_rank_count_and_any_way_of_sharing_give_the_same_scores():
    """Each rank alone gives what it would add to the sum over ranks."""
    expected = list(scorer()(SPECS))
    for world, members in [(2, 1), (2, 2), (3, 1), (4, 2), (8, 0)]:
        totals = torch.zeros(len(SPECS), 91, dtype=torch.int64)
        for rank in range(world):
            use = scorer(0, rank, world, ranks_per_candidate=members)
            group, member = divmod(rank, members or world)
            for i in range(group, len(SPECS), world // (members or world)):
                totals[i] += use.count(SPECS[i], member)
        points, chances = totals[:, :-1], totals[:, -1]
        counts = torch.stack([points.sum(1), (points**2).sum(1), torch.full_like(chances, 90), chances], 1)
        assert [score_of(*row) for row in counts.tolist()] == expected


def test_points_are_kept_image_by_image():
    """In the order of the images, as many as each side has right; the counts are their sums."""
    use = scorer()
    told = list(replace(use, keep_points=True)(SPECS))
    assert [replace(score, points=None) for score in told] == list(use(SPECS))
    for spec, score in zip(SPECS, told, strict=True):
        with torch.inference_mode():
            logits = use.supernet(use.prepare(use.pixels[use.order]), spec)
        right = (logits.argmax(-1) == use.labels[use.order]).sum(0)
        assert [int(c) for c in score.points] == right.tolist()


def test_ranks_that_cannot_be_grouped_are_told():
    with pytest.raises(UserError, match=r"search\.ranks_per_candidate: 3 does not divide the 4 ranks"):
        scorer(0, 0, 4, ranks_per_candidate=3)


def test_scoring_changes_nothing_in_the_supernet():
    use = scorer()
    before = {name: value.clone() for name, value in use.supernet.state_dict().items()}
    use.supernet.train()
    list(use(SPECS[:2]))
    assert all(torch.equal(before[name], value) for name, value in use.supernet.state_dict().items())
    assert all(p.grad is None and not p.is_inference() for p in use.supernet.parameters())


def test_answers_that_are_no_numbers_are_wrong():
    use = scorer()
    torch.nn.init.constant_(use.supernet.head.bias, math.nan)
    assert next(use(SPECS[:1])).value == 0


def test_reduced_precision_is_close():
    low = replace(scorer(), autocast=torch.bfloat16)
    for exact, rough in zip(scorer()(SPECS), low(SPECS), strict=True):
        assert abs(exact.value - rough.value) <= 0.15


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(0, 99))
def test_every_beginning_of_the_order_is_balanced(labels, seed):
    labels = np.array(labels)
    order = balanced_order(labels, 0, seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    sizes = np.bincount(labels)
    for end in range(1, len(labels) + 1):
        assert (order[:end] == balanced_order(labels, end, seed)).all()
        counts = np.bincount(labels[order[:end]], minlength=len(sizes))
        for a in range(len(sizes)):  # no class is ahead of one that still has images
            assert all(counts[a] <= counts[b] + 1 or counts[b] == sizes[b] for b in range(len(sizes)))


def test_more_images_than_there_are_is_told():
    with pytest.raises(UserError, match=r"search\.images: 91 is above the 90"):
        balanced_order(LABELS.numpy(), 91, 0)
