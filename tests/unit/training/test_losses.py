"""Training rules: which nets a step trains, and the losses against plain torch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch.nn import functional as F

from tests.helpers.strategies import spaces_and_specs
from vitas_ds import config
from vitas_ds.arch import genome
from vitas_ds.arch.space import SearchSpace
from vitas_ds.training import losses, sampling


def nets(step, seed=0, prob=0.4, **rule):
    return sampling.nets_of_step(SearchSpace(), config.Supernet(**rule), seed, step, prob)


def test_single_path_trains_one_net_a_step_from_seed_and_step_alone():
    assert [len(nets(step)) for step in range(5)] == [1] * 5
    assert nets(3) == nets(3)
    drawn = {(seed, step): nets(step, seed)[0] for seed in range(10) for step in range(10)}
    assert len(set(drawn.values())) == 100


def test_sandwich_is_largest_then_random_then_smallest():
    space = SearchSpace()
    first, *middle, last = nets(3, sampling="sandwich", random_subnets=3)
    assert first == genome.decode(space, genome.largest(space))
    assert last == genome.decode(space, genome.smallest(space))
    assert len(set(middle)) == 3
    assert len(nets(3, sampling="sandwich", random_subnets=0)) == 2


@pytest.mark.parametrize("rule", [{"sampling": "single"}, {"sampling": "sandwich", "random_subnets": 2}])
def test_every_second_step_trains_the_complement(rule):
    space = SearchSpace()
    for step in range(0, 10, 2):
        even, odd = nets(step, complementary=True, **rule), nets(step + 1, complementary=True, **rule)
        assert even == nets(step, **rule)
        pairs = list(zip(even, odd, strict=True))
        for a, b in pairs if rule["sampling"] == "single" else pairs[1:-1]:
            assert a.patch_size == b.patch_size
            assert [x and x.num_heads for x in a.layers] == [x and x.num_heads for x in b.layers]
            for field, widths in (("qkv_dim", space.qkv_widths), ("mlp_dim", space.mlp_widths)):
                sums = {getattr(x, field) + getattr(y, field) for x, y in zip(a.active, b.active, strict=True)}
                assert sums <= {widths[0] + widths[-1]}
            at = space.embed_widths.index
            assert at(a.embed_dim) + at(b.embed_dim) == 9


@settings(max_examples=30, deadline=None)
@given(spaces_and_specs())
def test_complement_is_a_net_of_the_space_and_its_own_inverse(space_and_spec):
    space, spec = space_and_spec
    other = sampling.complement(space, spec)
    assert genome.decode(space, genome.encode(space, other)) == other
    assert sampling.complement(space, other) == spec


def test_complementary_steps_train_each_width_as_often_as_its_opposite():
    drawn = [nets(step, complementary=True)[0].embed_dim for step in range(400)]
    widths = SearchSpace().embed_widths
    counts = np.array([drawn.count(width) for width in widths])
    assert counts.sum() == 400
    assert (counts == counts[::-1]).all()


@pytest.mark.parametrize("soft", [False, True])
def test_losses_equal_plain_torch(soft):
    torch.manual_seed(0)
    left, right = torch.randn(2, 6, 5).unbind()
    targets = torch.randn(6, 5).softmax(-1) if soft else torch.randint(5, (6,))
    both = torch.stack([left, right])
    torch.testing.assert_close(losses.loss_of(both, targets, "logit_sum"), F.cross_entropy(left + right, targets))
    mean = (F.cross_entropy(left, targets) + F.cross_entropy(right, targets)) / 2
    torch.testing.assert_close(losses.loss_of(both, targets, "loss_mean"), mean)
    for objective in ("logit_sum", "loss_mean"):
        one = losses.loss_of(left[None], targets, objective)
        torch.testing.assert_close(one, F.cross_entropy(left, targets))


def test_loss_of_bf16_logits_is_computed_in_float32():
    logits = torch.randn(2, 4, 10).bfloat16()
    assert losses.loss_of(logits, torch.randint(10, (4,)), "logit_sum").dtype == torch.float32


@pytest.mark.parametrize("objective", ["logit_sum", "loss_mean"])
def test_distillation_is_kl_up_to_the_teachers_entropy_and_leaves_the_teacher_alone(objective):
    torch.manual_seed(1)
    student = torch.randn(2, 6, 5, requires_grad=True)
    teacher = torch.randn(2, 6, 5, requires_grad=True)
    loss = losses.distill_loss(student, teacher, objective)
    s, t = (student.sum(0), teacher.sum(0)) if objective == "logit_sum" else (student, teacher)
    probs = t.softmax(-1)
    entropy = -(probs * probs.log()).sum(-1).mean()
    kl = (probs * (probs.log() - s.log_softmax(-1))).sum(-1).mean()
    torch.testing.assert_close(loss, kl + entropy)
    loss.backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    same = losses.distill_loss(teacher.detach().requires_grad_(), teacher, objective)
    torch.testing.assert_close(same, entropy)
