"""Accuracy of subnets during training. References: counts by hand, the scorer of the search, a run without it."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch

from tests.helpers.digits import write_digits
from tests.helpers.paths import ROOT
from vitas_ds.data.loader import decode_all, normalize
from vitas_ds.distributed import comm
from vitas_ds.errors import Preempted
from vitas_ds.recipe import load
from vitas_ds.run.metrics import read_metrics
from vitas_ds.run.run_dir import run_of
from vitas_ds.run.start import open_run
from vitas_ds.search import probe
from vitas_ds.search.probe import Schedule, schedule
from vitas_ds.search.scoring.scorer import Scorer, balanced_order
from vitas_ds.stages import train_supernet
from vitas_ds.stages.common import split_training_images
from vitas_ds.stages.search import load_supernet
from vitas_ds.training.trainer import train

RANDOM = ["random1", "random2", "random3", "random4"]


def test_the_schedule_costs_at_most_three_percent_by_hand():
    # 2.5 % of 1,000,000 are 25,000, half a step is 250: ten evaluations of 2,250 images, every 200 of 2,000 steps
    assert schedule(None, (50, 2000), 1_000_000, 5000) == Schedule(200, 2250, 0.025)
    # with 1,000 images, 20 evaluations
    assert schedule(None, (50, 2000), 1_000_000, 1000) == Schedule(100, 1000, 0.025)
    # 73 evaluations would be more than a curve needs: every 34 steps, which are 59
    assert schedule(None, (50, 2000), 1_000_000, 90) == Schedule(34, 90, 59 * 340 / 1_000_000)
    # a short training: eight evaluations, each of 50 images and half a step of 500
    assert schedule(None, (50, 200), 100_000, 5000) == Schedule(25, 50, 0.024)
    # 125 evaluations of an image: two of 50 images and half a step of 25; 40: none
    assert schedule(None, (50, 200), 5_000, 5000) == Schedule(100, 50, 0.025)
    assert schedule(None, (50, 200), 1_600, 5000) is None
    # an evaluation of six subnets launches the operators of two steps
    assert schedule(None, (50, 2000), 1_000_000, 5000, overhead=2) == Schedule(200, 1500, 0.025)


def test_a_chosen_interval_uses_all_images():
    assert schedule(0.5, (50, 220), 100_000, 5000) == Schedule(25, 5000, 9 * (5000 + 100_000 / 440) / 100_000)
    assert schedule(0, (50, 200), 100_000, 5000) is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    write_digits(folder / "digits")
    return folder


def config_of(folder, name, *words):
    data = [f"data.train={folder}/digits/train", "data.eval_batch_size=24"]  # 80 images are 3 batches and a part
    fixture = str(ROOT / "tests" / "fixtures" / "tiny.yaml")
    return load(fixture, [f"run.dir={folder}/runs", f"run.name={name}", *data, "supernet.lr=0.01", *words])


def weights(config):
    return load_supernet(config, run_of(config))[0].state_dict()


@pytest.fixture(scope="module")
def measured(folder):
    config = config_of(folder, "measured", "supernet.eval_every=0.5", "supernet.ema_decay=0.8")
    train_supernet.run(config)
    return config


def accuracies(config):
    rows = [row for row in read_metrics(run_of(config)) if row.get("evaluation")]
    return [(row["step"], {name: row[name] for name in row if name.startswith(probe.PREFIX)}) for row in rows]


def test_training_is_bitwise_equal_with_and_without(folder, measured):
    without = config_of(folder, "without", "supernet.eval_every=0", "supernet.ema_decay=0.8")
    train_supernet.run(without)
    ours, theirs = weights(measured), weights(without)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    losses = [[row["loss"] for row in read_metrics(run_of(c)) if "loss" in row] for c in (measured, without)]
    assert losses[0] == losses[1]
    assert [step for step, _ in accuracies(measured)] == [5, 10, 15, 20] and not accuracies(without)
    assert not run_of(without).supernet_subnets.exists()


def test_the_last_values_are_the_scores_of_the_search(measured):
    """The search scores the averaged weights, read from the file."""
    supernet, _ = load_supernet(measured, run_of(measured))
    ranks, (_, images) = comm.init("cpu"), split_training_images(measured)
    pixels = decode_all(images, measured.data, 28, ranks)
    order = balanced_order(images.labels, 0, measured.run.seed)
    score = Scorer(
        supernet, pixels, torch.from_numpy(images.labels), lambda x: normalize(x, measured.data), order, ranks
    )
    subnets = probe.probed_subnets(measured)
    assert list(subnets) == ["smallest", "largest", *RANDOM]
    scores = list(score(list(subnets.values())))
    step, values = accuracies(measured)[-1]
    assert step == 20 and [values[probe.PREFIX + name] for name in subnets] == [s.value for s in scores]
    assert values["accuracy/stderr"] == max(s.stderr for s in scores)
    saved = json.loads(run_of(measured).supernet_subnets.read_text())
    assert saved["images"] == 80 and saved["subnets"] == {name: spec.to_dict() for name, spec in subnets.items()}


@pytest.mark.parametrize("last", [False, True], ids=["in the middle", "at the end"])
def test_an_evaluation_that_a_signal_stops_is_made_up_for(folder, measured, last):
    config = config_of(folder, f"stopped-{last}", "supernet.eval_every=0.5", "supernet.ema_decay=0.8")
    ranks, run, (images, search_images) = comm.init("cpu"), run_of(config), split_training_images(config)
    open_run(config, True, stage="train-supernet")
    run.supernet.path.mkdir()
    task = train_supernet._with_evaluation(
        train_supernet.make_task(config, run, ranks, images), run, ranks, search_images
    )
    due = task.evaluation.run

    def stopped(engine):
        if len(accuracies(config)) == (3 if last else 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return due(engine)

    with pytest.raises(Preempted):
        train(replace(task, evaluation=replace(task.evaluation, run=stopped)), run, ranks)
    assert sorted(run.supernet.checkpoints.iterdir())[-1].name == f"step-000000{20 if last else 10}"
    train_supernet.run(config)
    assert accuracies(config) == accuracies(measured)
    ours, theirs = weights(config), weights(measured)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
