"""Choices that open one after the other. Reference: the periods by hand."""

import numpy as np
import pytest

from vitas_ds.arch import genome
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.space import SearchSpace
from vitas_ds.config import Config
from vitas_ds.training.opening import Open, all_choices, narrowed, open_choices
from vitas_ds.training.subnets import subnet_sampler

SPACE = SearchSpace(
    image_size=32, num_classes=10, patch_sizes=(8,), embed_dim=16, depth=6, num_heads=(1, 2, 3, 4), qkv_dim=48,
    mlp_dim=20, embed_ratios=(0.5, 0.75, 1.0), qkv_ratios=(0.5, 1.0), mlp_ratios=(0.25, 0.5, 0.75, 1.0), min_depth=3,
    elastic={"head_dim": 4, "drop_order": (2, 4, 1, 0, 3, 5)},
)  # fmt: skip


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0, Open(2, 2, 2, 2, 1)),
        (0.24, Open(2, 2, 2, 2, 1)),
        (0.26, Open(3, 2, 3, 3, 1)),
        (0.51, Open(4, 2, 4, 4, 1)),
        (0.74, Open(4, 2, 4, 4, 1)),
        (0.76, Open(4, 2, 4, 4, 2)),
        (0.88, Open(4, 2, 4, 4, 3)),
    ],
)
def test_smaller_choices_open_evenly_and_those_of_embed_dim_last(share, expected):
    assert open_choices(SPACE, share) == expected
    assert all_choices(SPACE) == (4, 2, 4, 4, 3)


def test_the_narrowed_space_has_the_largest_choices_of_the_whole_one():
    part = narrowed(SPACE, Open(2, 2, 3, 2, 1))
    assert part.num_heads == (3, 4) and part.mlp_widths == (10, 15, 20) and part.embed_widths == (16,)
    assert part.min_layers == 5 and part.elastic == SPACE.elastic
    specs = genome.decode_all(part, genome.sample(part, np.random.default_rng(0), 50))
    assert [genome.decode(SPACE, genome.encode(SPACE, spec)) for spec in specs] == specs
    assert {spec.layers.index(None) for spec in specs if spec.depth == 5} == {2}
    whole = narrowed(SPACE, all_choices(SPACE))
    assert genome.count_subnets(whole) == genome.count_subnets(SPACE)


def config(**supernet) -> Config:
    settings = {"sampling": "sandwich", "random_subnets": 2, "epochs": 10, "batch_size": 10, "warmup_epochs": 0}
    return Config(space=SPACE, supernet=settings | supernet, search={"budgets": ["90K", "130K"]})


def test_the_smallest_subnet_of_a_step_shrinks_and_the_largest_stays():
    """100 images, 10 epochs of 10 steps: choices open in the first 50 steps."""
    subnets = subnet_sampler(config(open=0.5), None, 100)
    steps = [subnets(step) for step in range(100)]
    smallest = [spec_macs(specs[-1]) for specs in steps]
    assert smallest == sorted(smallest, reverse=True) and smallest[50] == smallest[99] < smallest[0]
    assert len({specs[0] for specs in steps}) == 1
    for i, specs in enumerate(steps[:50]):
        part = narrowed(SPACE, open_choices(SPACE, i / 50))
        assert specs[-1] == genome.decode(part, genome.smallest(part))
        for spec in specs:
            genome.encode(part, spec)  # raises UserError for another network
    again = subnet_sampler(config(open=0.5), None, 100)
    assert [again(step) for step in (77, 3, 40)] == [steps[i] for i in (77, 3, 40)]
    late = subnet_sampler(config(), None, 100)
    assert [late(step) for step in range(50, 100)] == steps[50:]


def test_random_subnets_are_in_the_bands_once_these_are_open():
    subnets = subnet_sampler(config(open=0.5, distribution="budget"), None, 100)
    bands = [(81_000, 90_000), (117_000, 130_000)]
    inside = [
        [low <= spec_macs(spec) <= high for spec in subnets(step)[1:3]]
        for step in range(100) for low, high in [bands[step % 2]]
    ]  # fmt: skip
    assert all(map(all, inside[50:])) and not all(map(all, inside[:20]))
