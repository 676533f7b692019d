"""Subnets, defects, sampling and scoring of tests/benchmarks/fidelity.

References: counts and specs by hand, and a second computation of the same values.
"""

import json
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import torch

from tests.benchmarks.fidelity import defects, drawing, further, images, jobs, learning, scoring, study  # fmt: skip
from vitas_ds import config
from vitas_ds.arch import genome
from vitas_ds.arch.cost import spec_macs
from vitas_ds.models.flat import named_tensors
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet


def test_subnets_of_the_study_by_hand():
    nets = study.nets(study.FULL)
    assert len({json.dumps(net.to_dict()) for net in nets.values()}) == 48
    costs = {name: spec_macs(net) for name, net in nets.items()}
    equal = [name for name in nets if name.startswith("equal")]
    assert Counter(nets[name].patch_size for name in equal) == {7: 12, 14: 12}
    assert max(costs[name] for name in equal) < 1.03 * min(costs[name] for name in equal)
    assert max(costs.values()) > 6 * min(costs.values())
    assert Counter(net.patch_size for net in study.longer_nets(study.FULL).values()) == {7: 2, 14: 2}


def test_misplaced_widths_come_from_other_positions():
    """By hand: layers at positions 1 and 4 take the widths of positions 0 and 1."""
    genes = [0, 2, 3, 4, 3, 1, 2, 1, 3, 0, 0, 3, 0, 0, 0, 1, 2]  # patch, embedding, five of (operator, q/k/v, MLP)
    spec = genome.decode(study.SPACE.model_copy(update={"identity_shift": False}), np.array(genes))
    seen = {defects.misplaced(spec, np.random.default_rng(seed)).layers for seed in range(60)}
    heads = {tuple(layer and layer.num_heads for layer in layers) for layers in seen}
    assert heads == {(None, 4, None, None, 2)}
    second = {(layers[4].qkv_dim, layers[4].mlp_dim) for layers in seen}
    assert second == {(study.SPACE.qkv_widths[2], study.SPACE.mlp_widths[1])}  # of the first layer
    first = {(layers[1].qkv_dim, layers[1].mlp_dim) for layers in seen}
    assert len(first) > 5  # of a skipped position with random genes


def test_misplaced_widths_and_their_reference_have_the_same_positions():
    for i, spec in enumerate(study.nets(study.SMALL).values()):
        placed, wrong = (of(spec, np.random.default_rng([7, i])) for of in (defects.scattered, defects.misplaced))
        heads = [[layer and layer.num_heads for layer in net.layers] for net in (placed, wrong)]
        assert heads[0] == heads[1] and len(placed.layers) == study.SPACE.depth
        assert placed.active == spec.active  # only the positions differ


def test_nothing_is_misplaced_without_skipped_layers():
    spec = genome.decode(study.SPACE, genome.largest(study.SPACE))
    assert defects.misplaced(spec, np.random.default_rng(0)) == spec


def logits(supernet: Supernet, spec, shown: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return supernet(shown, spec)


def test_one_position_ignores_the_order_of_patches():
    """Reference: the same patches in another order."""
    shown = torch.randn(4, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    turned = shown.roll((14, 14), (2, 3))  # whole patches of 7 and of 14
    spec = next(iter(study.nets(study.SMALL).values()))
    for defect, same in ((None, False), ("position", True)):
        supernet = Supernet(study.SPACE, "ordinal")
        init_weights(supernet, 0, std=None)
        torch.nn.init.normal_(named_tensors(supernet)[f"stems.patch{spec.patch_size}.pos_embed"])
        defects.give(supernet, defect)
        assert torch.allclose(*(logits(supernet, spec, x) for x in (shown, turned)), atol=1e-5) is same


def test_only_the_first_stem_trains():
    supernet = Supernet(study.SPACE, "ordinal")
    defects.give(supernet, "stem")
    trained = {name for name, p in supernet.named_parameters() if "stems" in name and p.requires_grad}
    assert {name.split(".")[1] for name in trained} == {"patch7"}


def fair(steps: int) -> list:
    variant = study.Variant("fair", config.Supernet(sharing="ordinal"), fair=True)
    return [nets[0] for nets in islice(drawing.drawn(variant, 0), steps)]


def test_fair_sampling_takes_each_choice_equally_often_by_count():
    nets = fair(60)  # a multiple of both sizes
    for counts, choices in (
        (Counter(net.patch_size for net in nets), study.SPACE.patch_sizes),
        (Counter(net.embed_dim for net in nets), study.SPACE.embed_widths),
    ):
        assert counts == dict.fromkeys(choices, 60 // len(choices))


def test_fair_sampling_counts_no_turn_of_a_skipped_layer():
    nets = fair(90)
    for place in range(study.SPACE.depth):
        there = [net.layers[place] for net in nets if net.layers[place] is not None]
        assert 10 < len(there) < 80  # some subnets skip it
        for field, choices in (("num_heads", 3), ("qkv_dim", 5), ("mlp_dim", 4)):
            counts = Counter(getattr(layer, field) for layer in there)
            assert len(counts) == choices and max(counts.values()) - min(counts.values()) <= 1


def test_steps_of_each_position_equal_a_count_over_the_drawn_subnets():
    small = replace(study.SMALL, supernet_steps=3)
    shown = images_of_noise()
    for deep_end in (False, True):
        trained = learning.train_supernet(study.Variant("", deep_end=deep_end), shown, small, 0)
        nets = [nets[0] for nets in islice(drawing.drawn(study.Variant("", deep_end=deep_end), 0), trained.steps)]
        assert trained.positions == [sum(net.layers[i] is not None for net in nets) for i in range(study.SPACE.depth)]
        assert not deep_end or trained.positions == sorted(trained.positions, reverse=True)


def images_of_noise() -> images.Images:
    rng, labels = torch.Generator().manual_seed(0), torch.arange(120) % 10
    held = torch.randn(200, 3, 28, 28, generator=rng), torch.arange(200) % 10
    return images.Images(torch.randn(1, 120, 3, 28, 28, generator=rng), labels, held, held)


def test_every_way_scores_every_subnet():
    supernet = Supernet(study.SPACE, "bilateral", class_token_only=True).eval()
    init_weights(supernet, 0, std=None)
    specs = dict(islice(study.nets(study.SMALL).items(), 2))
    found = scoring.scores(study.variant(study.BASE), supernet, supernet.state_dict(), images_of_noise(), specs)
    assert study.AT_RANDOM in found and all(scores.keys() == specs.keys() for scores in found.values())


def test_job_names_are_unique_and_cover_both_seeds():
    names = [job.name for job in jobs.first_jobs(study.FULL)]
    assert len(names) == len(set(names)) == 2 * (48 + 4 + len(study.variants()))


def test_names_of_further_supernets_are_new():
    names = [v.name for v in (*study.variants(), *further.FURTHER)]
    assert len(set(names)) == len(names)
