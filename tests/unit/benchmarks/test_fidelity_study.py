"""Subnets, images, trainings and supernets of tests/benchmarks/fidelity.

References: counts by hand, the loader of the product, and uninterrupted trainings.
"""

from itertools import islice

import numpy as np
import pytest
import torch

from tests.benchmarks.fidelity import jobs, study, supernets, training, working
from tests.benchmarks.fidelity.record import Record
from tests.helpers.digits import write_digits
from tests.helpers.photos import cpu_rank
from tests.helpers.small_study import CLASSES, SEARCH, TRAIN, VAL, small_study
from vitas_ds import recipe
from vitas_ds.arch.cost import spec_macs
from vitas_ds.data import loader
from vitas_ds.data.sources import read_folder

CIFAR10 = study.Study(recipe.load(study.CIFAR10, []), study.FULL)


def test_subnets_of_the_study_by_hand():
    nets, (low, high) = CIFAR10.nets, CIFAR10.budget
    equal = [net for name, net in nets.items() if name.startswith("equal")]
    spread = [spec_macs(net) for name, net in nets.items() if name.startswith("spread")]
    assert len(equal) == 40 and len(spread) == 20 and len(set(nets.values())) == 60
    assert all(low <= spec_macs(net) <= high for net in equal) and high < 1.07 * low
    assert [net.patch_size for net in equal] == [4] * 20 + [8] * 20
    assert spread == sorted(spread) and spread[-1] > 7 * spread[0]
    assert study.Study(CIFAR10.config, study.FULL).nets == nets  # no matter when they are drawn


def test_the_subnets_cover_every_choice():
    space, nets = CIFAR10.config.space, CIFAR10.nets.values()
    layers = [layer for net in nets for layer in net.active]
    assert {net.embed_dim for net in nets} == set(space.embed_widths)
    assert {len(net.active) for net in nets} == set(range(space.min_depth, space.depth + 1))
    for field, choices in (
        ("num_heads", space.num_heads), ("qkv_dim", space.qkv_widths), ("mlp_dim", space.mlp_widths)
    ):  # fmt: skip
        counts = [sum(getattr(layer, field) == choice for layer in layers) for choice in choices]
        assert min(counts) > 0.4 * len(layers) / len(choices), (field, counts)


def test_subnets_that_train_longer_are_spread_over_the_equal_ones():
    longer = CIFAR10.longer_nets
    assert len(longer) == study.FULL.longer and all(CIFAR10.nets[name] == net for name, net in longer.items())
    gaps = np.diff([list(CIFAR10.nets).index(name) for name in longer])
    assert gaps.min() >= 40 // study.FULL.longer and gaps.max() - gaps.min() <= 1
    assert {net.patch_size for net in longer.values()} == {4, 8}


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "record.jsonl")


def test_job_names_are_unique_and_cover_all_seeds(record):
    truth, seeds = jobs.truth_jobs(CIFAR10, record), study.FULL.seeds
    kinds = [job.kind for job in truth]
    assert kinds.count("net") == 60 * seeds and kinds.count("longer") == study.FULL.longer * seeds
    ranking = jobs.ranking_jobs(CIFAR10, record)
    assert len({job.name for job in truth + ranking}) == len(truth) + len(supernets.VARIANTS) * seeds
    twice, once = (next(job for job in truth if job.kind == kind) for kind in ("longer", "net"))
    assert twice.cost == 2 * once.cost and twice.what == once.what and twice.seed == once.seed


def test_steps_follow_the_recipe_by_hand(root):
    """200 training images in batches of 50 are 4 steps an epoch; 6 epochs, and half of them."""
    epochs = CIFAR10.config.retrain.epochs
    assert small_study(root, steps=1.0).net_steps == 4 * epochs
    assert small_study(root, steps=0.5).net_steps == 2 * epochs


def test_the_parts_are_disjoint(root):
    train, search, val = small_study(root).images
    assert (len(train), len(search), len(val)) == tuple(CLASSES * n for n in (TRAIN, SEARCH, VAL))
    assert not set(train.paths) & set(search.paths) and val.root.endswith("val")


def test_the_digest_depends_on_settings_and_not_on_the_place(root, tmp_path):
    first = small_study(root)
    moved = write_digits(tmp_path / "elsewhere", TRAIN + SEARCH, VAL)
    assert small_study(moved).digest("retrain") == first.digest("retrain") != first.digest("supernet")
    for other in (small_study(root, "retrain.lr=1e-4"), small_study(root, "run.seed=5"), small_study(root, steps=0.5)):
        assert other.digest("retrain") != first.digest("retrain")
    assert small_study(root, "supernet.lr=1e-4").digest("retrain") == first.digest("retrain")


def test_images_are_those_of_the_loader(work, shown):
    """Search and validation images are decoded without augmentation; each view augments every image."""
    data, side = work.study.config.data, 32
    for part, source in ((shown.search, work.study.images[1]), (shown.val, read_folder(data.val))):
        pixels, labels = part
        assert torch.equal(pixels, loader.decode_all(source, data, side, cpu_rank()))
        assert labels.tolist() == source.labels.tolist()
    train = work.study.images[0]
    assert shown.views.shape == (study.SMALL.views, len(train), 3, side, side) and shown.views.dtype == torch.uint8
    assert shown.labels.tolist() == train.labels.tolist()
    plain = loader.decode_all(train, data, side, cpu_rank()).float()
    similar = [torch.corrcoef(torch.stack([view.flatten(), own.flatten()]))[0, 1].item()
               for view, own in zip(shown.views[1].float(), plain, strict=True)]  # fmt: skip
    others = [torch.corrcoef(torch.stack([view.flatten(), own.flatten()]))[0, 1].item()
              for view, own in zip(shown.views[1].float(), plain.roll(TRAIN, 0), strict=True)]  # fmt: skip
    assert np.mean(similar) > np.mean(others) + 0.1  # each at the place of its own image
    assert not torch.equal(shown.views[0], shown.views[1])


def test_an_epoch_shows_each_image_once_in_a_new_order(shown):
    """Reference: pixels and labels looked up in the views by hand."""
    per_epoch, views = 4, len(shown.views)
    batches = list(islice(shown.batches(50, seed=1), 2 * per_epoch))
    orders = []
    for epoch in (0, 1):
        part = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        pixels, labels = (torch.cat(tensors) for tensors in zip(*part, strict=True))
        view = shown.normalized(shown.views[(epoch + 7) % views])
        places = [(view == image).flatten(1).all(1).nonzero().flatten().tolist() for image in pixels]
        assert all(labels[i] == shown.labels[at[0]] for i, at in enumerate(places))
        assert len({tuple(at) for at in places}) == len(shown.labels)
        orders.append(places)
    assert orders[0] != orders[1]


def test_batches_continue_from_any_step(shown):
    whole = list(islice(shown.batches(50, seed=1), 7))
    for start in (3, 4, 6):
        again = next(shown.batches(50, seed=1, start=start))
        assert torch.equal(again[0], whole[start][0]) and torch.equal(again[1], whole[start][1])
    assert not torch.equal(whole[0][1], next(shown.batches(50, seed=2))[1])


def test_a_killed_training_of_a_subnet_reaches_the_same_result(work, shown, tmp_path, monkeypatch):
    spec, config, saved = work.study.nets["spread 00"], work.study.config, tmp_path / "a.pt"
    whole = training.train_net(spec, shown, config, 10, 1, tmp_path / "b.pt")

    class Killed(Exception):
        pass

    save = training.Saved.save

    def save_and_die(self):
        save(self)
        raise Killed

    monkeypatch.setattr(training, "SAVE_SECONDS", 0)
    with monkeypatch.context() as patch:
        patch.setattr(training.Saved, "save", save_and_die)
        with pytest.raises(Killed):
            training.train_net(spec, shown, config, 10, 1, saved)
    assert 0 < torch.load(saved)["trainer"]["step"] < 10
    again = training.train_net(spec, shown, config, 10, 1, saved)
    for key in ("macs", "steps", "accuracy", "loss", "train_loss"):
        assert again[key] == whole[key]
    other = training.train_net(spec, shown, config, 10, 2, tmp_path / "c.pt")
    assert other["loss"] != whole["loss"] and whole["macs"] == spec_macs(spec) and whole["steps"] == 10


def test_a_job_of_a_subnet_is_a_complete_row(work, record):
    job = next(job for job in jobs.truth_jobs(work.study, record) if job.kind == "longer")
    row = working.run(job, work)
    assert (row["job"], row["kind"], row["seed"], row["what"]) == (job.name, "longer", job.seed, job.what)
    assert row["steps"] == 2 * work.study.net_steps and row["digest"] == work.study.digest("retrain")
    assert 0 <= row["accuracy"] <= 1 and not work.saved(job).exists()


BY_HAND = ("default", "ordinal", "nested, one per patch size", "nested, four subnets", "nested, three times as long",
           "nested, sandwich, largest first", "nested, small batches", "nested, one per embed_dim")  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_every_supernet_trains_for_the_same_macs_by_hand(root, name, monkeypatch):
    """The MACs of the subnets of all steps, counted one by one, equal those of NETS subnets trained alone."""
    monkeypatch.setattr(supernets, "DRAWN", 300)
    variant, of = supernets.VARIANTS[name], small_study(root, steps=2.0)
    plans = supernets.plans(of, variant, seed=0)
    assert len(plans) == {"": 1, "patch_sizes": 2, "embed_ratios": 5}[variant.split]
    costs = []
    for plan in plans:
        sides = 2 if plan.settings.sharing == "bilateral" else 1
        costs += [
            plan.settings.batch_size * sides * sum(map(spec_macs, plan.subnets(step))) for step in range(plan.steps)
        ]
        assert {net.patch_size for net in plan.subnets(0)} <= set(plan.space.patch_sizes)
        assert {net.embed_dim for net in plan.subnets(0)} <= set(plan.space.embed_widths)
        assert len(plan.subnets(plan.steps - 1)) == variant.subnets + 2 * variant.sandwich
        share = sum(50 * spec_macs(net) for step in range(plan.steps) if len(plan.subnets(step)) == 1
                    for net in plan.subnets(step)) / plan.macs  # fmt: skip
        assert share == pytest.approx(variant.largest_first, abs=0.05) or not variant.sandwich
    whole = variant.length * supernets.NETS * of.net_steps * 50 * np.mean(of.budget)
    error = np.std(costs) * len(costs) ** 0.5  # of the sum: the subnets are random
    assert sum(costs) == pytest.approx(whole, abs=4 * error + 0.02 * whole) and error < 0.2 * whole
    assert sum(plan.macs for plan in plans) == pytest.approx(whole, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default", "nested, one per patch size", "nested, one per embed_dim"])
def test_a_supernet_scores_every_subnet_also_after_a_kill(work, name, record, monkeypatch):
    """A kill at the first mark: the second start has the scores of the first."""
    monkeypatch.setattr(supernets, "DRAWN", 20)
    job = next(job for job in jobs.ranking_jobs(work.study, record) if job.what == name and job.seed == 1)
    whole = working.run(job, work)
    for way, scores in whole["scores"].items():
        expected = {net for net in work.study.nets if ", at " not in way or net.startswith("equal")}
        assert scores.keys() == expected, way
    weights = torch.load(work.weights(job).with_stem(f"{job.name} 0"))
    assert (
        weights.keys() == supernets.new(supernets.plans(work.study, supernets.VARIANTS[name], 1)[0]).state_dict().keys()
    )
    save = training.Saved.save

    def save_and_die(self):
        save(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training.Saved, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            working.run(job, work)
    again = working.run(job, work)
    for key in ("steps", "training_macs", "scores", "train_loss"):
        assert again[key] == whole[key], key
