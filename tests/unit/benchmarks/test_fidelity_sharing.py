"""The cost of sharing in tests/benchmarks/fidelity.

References: the recipe's choices read by hand, numbers by hand, and a training of the subnet alone.
"""

import pytest
import torch

from tests.benchmarks.fidelity import document, jobs, sharing, study, supernets, working
from tests.benchmarks.fidelity.study import Study
from tests.helpers.fidelity_records import STAMP, spec_of
from vitas_ds import recipe
from vitas_ds.arch import genome
from vitas_ds.models.extract import subnet_state_dict
from vitas_ds.models.vit import VisionTransformer

CIFAR10 = Study(recipe.load(study.CIFAR10, []), study.FULL)


def test_the_observed_subnet_has_the_middle_choices_by_hand():
    net = sharing.observed(CIFAR10)
    assert (net.patch_size, net.embed_dim, net.depth) == (4, 64, 4)
    assert {(layer.num_heads, layer.qkv_dim, layer.mlp_dim) for layer in net.active} == {(4, 144, 128)}


@pytest.mark.parametrize("case", sharing.CASES)
def test_a_space_has_all_choices_of_its_genes_only(case, work):
    genes, whole = sharing.CASES[case][0], work.study.config.space
    space = sharing.plan(work.study, case, 0).space
    choices = {
        "patch size": (space.patch_sizes, whole.patch_sizes), "embed_dim": (space.embed_widths, whole.embed_widths),
        "heads": (space.num_heads, whole.num_heads), "layers": (range(space.depth), range(whole.depth)),
        "widths": (space.qkv_widths + space.mlp_widths, whole.qkv_widths + whole.mlp_widths),
    }  # fmt: skip
    for gene, (found, all_choices) in choices.items():
        assert (found == all_choices) == (gene in genes), gene
    genome.encode(space, sharing.observed(work.study))  # raises if the subnet is not in the space


def test_random_subnets_have_the_mean_depth_of_the_observed_one(work):
    plan = sharing.plan(work.study, sharing.ALL, 0)
    mean = sum(plan.subnets(step)[0].depth for step in range(400)) / 400
    assert mean == pytest.approx(4, abs=0.2)


def test_alone_trains_the_observed_subnet_as_an_ordinary_network(work, shown):
    of = sharing.plan(work.study, sharing.ALONE, 1)
    assert all(net.canonical() == sharing.observed(work.study) for net in of.subnets(3))
    trainer = supernets.make_trainer(of, work.study, 1)
    net = VisionTransformer(sharing.observed(work.study), class_token_only=True)
    images, _ = next(shown.batches(8, 1))

    with torch.no_grad():
        net.load_state_dict(subnet_state_dict(trainer.model, sharing.observed(work.study)))
        assert torch.allclose(trainer.model.eval()(images, of.subnets(0)[0])[0], net.eval()(images), atol=1e-5)


def test_a_job_records_the_curve(work, record):
    job = next(job for job in jobs.sharing_jobs(work.study, record) if job.what == "heads")
    row = working.run(job, work)
    assert list(row["curve"]) == [str(share) for share in sharing.CURVE] and not work.saved(job).exists()
    assert row["net"] == sharing.observed(work.study).to_dict() and row["digest"] == work.study.digest("supernet")


ALONE = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]  # after 2, 4, 8, 16, 32 and 64 of 64 steps


@pytest.mark.parametrize(
    ("accuracy", "steps"),
    [(0.05, "below 2 steps"), (0.1, "2 steps"), (0.45, "24 steps"), (0.6, "64 steps"), (0.7, "64 steps")],
)
def test_steps_alone_by_hand(accuracy, steps):
    assert sharing.as_good_as(accuracy, ALONE, 64) == steps


def test_the_table_has_means_over_the_seeds(record):
    for case, seed, last in ((sharing.ALONE, 0, 0.6), ("heads", 0, 0.46), ("heads", 1, 0.44)):
        curve = dict(zip(map(str, sharing.CURVE), [*ALONE[:5], last], strict=True))
        record.add(STAMP | {"job": f"sharing {case}, seed {seed}", "kind": "sharing", "what": case, "seed": seed,
                            "curve": curve, "steps": 64, "net": spec_of("equal 00")})  # fmt: skip
    alone, heads = sharing.table(record)
    assert alone["after 100%, %"] == "60.0" and alone["as good as"] == "64 steps"
    assert heads["after 100%, %"] == "45.0" and heads["as good as"] == "24 steps" and heads["seeds"] == 2
    assert "## What does sharing cost?" in document.text(record, "cifar10")
