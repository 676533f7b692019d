"""Images, computation and epochs of tests/benchmarks/elastic.

References: counts by hand, and the links of a folder.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks.elastic import counts, images, jobs, networks
from tests.benchmarks.elastic.jobs import METHODS
from tests.benchmarks.elastic.study import FULL, QUICK, Study
from tests.benchmarks.fidelity.record import Record
from tests.helpers.digits import write_digits
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import LayerSpec, SubnetSpec, spec_from_dict
from vitas_ds.data.sources import ImageSet, hold_out, read_folder
from vitas_ds.errors import UserError
from vitas_ds.search.scoring.candidate import Candidate, Score
from vitas_ds.search.scoring.ledger import open_ledger

N = 65  # tokens of an image of 32 pixels with patches of 4


def layer(embed: int, qkv: int, mlp: int) -> int:
    return N * embed * qkv + 2 * N * N * qkv // 3 + N * qkv // 3 * embed + 2 * N * embed * mlp


def network(embed: int, qkv: int, mlp: int, depth: int) -> int:
    return 64 * 48 * embed + depth * layer(embed, qkv, mlp) + 10 * embed


LARGEST, SMALLEST = network(128, 384, 256, 6), network(96, 48, 64, 4)  # a head of 32 channels, of which 16 stay
SIBLINGS = [network(64, 192, 128, 7), network(96, 288, 192, 5), network(96, 288, 192, 7)]  # of 20M, 30M and 40M


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path, "elastic_cifar10", ("data.train=train", "data.val=test"), FULL)


def test_elastic_training_counts_every_subnet_and_the_teacher(study):
    study = replace(study, overrides=("supernet.random_subnets=0", "supernet.open=0", "supernet.epochs=2"))
    batches = 2 * 3  # epochs, and whole batches of 128 in 500 images
    expected = batches * 128 * (3 * (LARGEST + SMALLEST) + LARGEST)
    assert counts.elastic_macs(study.config, 500, LARGEST) == expected


def test_other_parts_are_counted_by_hand(study, tmp_path):
    assert counts.epoch_macs(10, images=100, teacher=7) == 3700
    assert counts.importance_macs(study.config, 15_000, 10) == 1024 * 30
    assert counts.importance_macs(study.config, 1000, 10) == 1000 * 30  # there are no more
    ledger = open_ledger(tmp_path / "ledger.jsonl", {"supernet": "x"})
    for width, scored in ((64, 1000), (64, 2000), (96, 1000)):
        one = LayerSpec(width // 32, 3 * width, 2 * width)
        spec = SubnetSpec(32, 4, width, 10, (one,) * (7 if width == 64 else 5))
        costs = {"macs": spec_macs(spec), "vitas_flops": 1, "params": 1, "activations": 1}
        ledger.add(Candidate(spec, costs, 1, Score(0.5, 0.01, scored)))
    found = counts.score_macs(tmp_path / "ledger.jsonl", study.limits)
    assert found == {"20M": 3000 * SIBLINGS[0], "30M": 1000 * SIBLINGS[1], "40M": 0}


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (180, [3, 3, 3]),
        (189, [3, 3, 3]),
        (199, [4, 3, 3]),  # 19 are left: the cheapest one gets 10, and no other costs 9
        (210, [4, 4, 3]),
        (59, [1, 1, 0]),
        (0, [0, 0, 0]),
    ],
)
def test_epochs_are_even_and_the_rest_goes_to_the_cheapest(total, expected):
    assert counts.affordable(total, [10, 20, 30]) == expected
    assert counts.affordable(total, [30, 20, 10]) == expected[::-1]


def test_epochs_of_the_plan(study):
    """The epochs of siblings, counted by hand. Elastic training is that of its own test."""
    row = jobs.stand_in(study)
    shown, teacher = 48_000, LARGEST  # 375 batches of 128
    elastic = counts.elastic_macs(study.config, 48_000, LARGEST)
    scores = [200 * 1000 * macs for macs in SIBLINGS]  # 10 generations of 20 candidates
    tuned = [2 * shown * (3 * macs + teacher) for macs in SIBLINGS]
    limit = 1024 * 3 * LARGEST + elastic + sum(scores) + sum(tuned)
    assert jobs.elastic_total(study, row) == limit
    found = {
        (job.what, job.budget): job for job in jobs.network_jobs(study, 0, {"elastic": row, "unsorted": row})
    }  # fmt: skip
    even = limit // sum(shown * (3 * macs + teacher) for macs in SIBLINGS)
    assert [found["sibling", budget].epochs for budget in study.budgets] == [even + 1, even, even] == [5, 4, 4]
    even = limit // sum(shown * 3 * macs for macs in SIBLINGS)
    assert [found["scratch", budget].epochs for budget in study.budgets] == [even + 1, even, even] == [8, 7, 7]
    assert {found[name, budget].epochs for name in ("elastic", "unsorted") for budget in study.budgets} == {2}
    for i, budget in enumerate(study.budgets):  # one network gets what elastic needs for it alone
        alone = found[jobs.ALONE, budget]
        assert alone.limit == limit - sum(scores) - sum(tuned) + scores[i] + tuned[i]
        assert alone.shared == 1024 * 3 * LARGEST + 9 * 2000 * SIBLINGS[i]  # its own scores only
        assert alone.epochs == (alone.limit - alone.shared) // (shown * (3 * SIBLINGS[i] + teacher))


def test_no_method_exceeds_the_limit_or_wastes_an_epoch(study):
    row = jobs.stand_in(study)
    found = jobs.network_jobs(study, 0, {"elastic": row, "unsorted": row})
    for name in METHODS:
        mine = [job for job in found if job.what == name]
        for group in [[job] for job in mine] if name == jobs.ALONE else [mine]:
            spent = group[0].shared + sum(job.own for job in group)
            dearest = max(job.own // job.epochs for job in group)
            assert 0 <= group[0].limit - spent < dearest, name
    assert len({job.limit for job in found if job.what != jobs.ALONE}) == 1


def test_all_work_takes_about_ten_hours_on_two_cores(study, tmp_path):
    work = sum(job.cost for job in [jobs.start_job(study), *jobs.all_jobs(study, Record(tmp_path / "none"))])
    assert 2.5e15 < work < 2.8e15  # at 36G MACs per second and core, and 8 hours in bf16 at 47G


def test_siblings_are_those_of_the_plan(study):
    found = [networks.sibling(study, limit) for limit in study.limits]
    assert [(spec.embed_dim, spec.depth, spec_macs(spec)) for spec in found] == [
        (64, 7, SIBLINGS[0]), (96, 5, SIBLINGS[1]), (96, 7, SIBLINGS[2])
    ]  # fmt: skip
    assert spec_macs(study.largest) == LARGEST
    study = replace(study, overrides=("search.budgets=[1M]",))
    with pytest.raises(UserError, match="no sibling"):
        networks.sibling(study, study.limits[0])


def test_all_seeds_have_the_same_images(tmp_path):
    digits = write_digits(tmp_path / "digits", train_per_class=14)
    folders = [images.link_training(str(digits / "train"), tmp_path / f"t{seed}", 9, 4, seed) for seed in range(3)]
    parts = [hold_out(read_folder(folder), 4, seed) for seed, folder in enumerate(folders)]
    for train, search in parts:
        assert len(train) == 90 and len(search) == 40 and set(search.labels.tolist()) == set(range(10))
        assert targets(train).isdisjoint(targets(search))
    assert len({frozenset(targets(train)) for train, _ in parts}) == 1
    assert len({frozenset(targets(search)) for _, search in parts}) == 1
    with pytest.raises(UserError, match="has 14 images, the study needs 15 per class"):
        images.link_training(str(digits / "train"), tmp_path / "more", 11, 4, 0)


def targets(part: ImageSet) -> set[str]:
    return {os.path.realpath(part.file(i)) for i in range(len(part))}


def test_a_killed_job_leaves_no_incomplete_folder(tmp_path):
    digits = write_digits(tmp_path / "digits", train_per_class=14)
    (tmp_path / "t.partial" / "7").mkdir(parents=True)
    folder = images.link_test(str(digits / "val"), tmp_path / "t", 3)
    assert len(read_folder(folder)) == 30 and not (tmp_path / "t.partial").exists()
    first = next(folder.rglob("*.jpg"))
    first.unlink()
    images.link_test(str(digits / "val"), folder, 3)
    assert not first.exists()  # a complete folder stays as it is


def test_settings_of_a_stage(study):
    words = study.words(2, "run.name=a")
    config = replace(study, overrides=(*study.overrides, "supernet.epochs=9", "run.seed=7")).config
    assert config.supernet.epochs == 9 and config.run.seed == 0 and config.search.population == 20
    assert "run.seed=2" in words and words[-1] == "run.name=a" and "data.val=test" in words
    assert config.data.search_per_class == 200 and config.retrain.eval_images == 2000
    other = replace(study, overrides=("data.train=elsewhere",), folder=study.folder / "moved")
    assert other.digest() == study.digest() != replace(study, size=QUICK).digest()
    assert spec_from_dict(jobs.start_job(study).spec) == study.largest
