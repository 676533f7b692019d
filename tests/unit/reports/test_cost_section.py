"""The cost of a run: images, MACs and hours.

Reference: counts by hand. 600 steps in 75 seconds, subnets of a million MACs, 12 scores on 40 images, two sides.
"""

import json

import pytest

from tests.helpers.runs import search, train
from vitas_ds.arch import genome
from vitas_ds.arch.cost import spec_macs
from vitas_ds.reports import cost_section
from vitas_ds.reports.candidates import read_candidates
from vitas_ds.run.files import write_json
from vitas_ds.run.manifest import read_starts
from vitas_ds.run.summary import update_summary
from vitas_ds.run.thinned_metrics import read_thinned_metrics
from vitas_ds.search.scoring.ledger_reader import read_ledger


def costs(run, config):
    found = cost_section.costs_of(run, config, read_thinned_metrics(run), read_candidates(run, config))
    return {cost.name: cost for cost in found if cost.images}


def timed(run):
    """Give each score of the ledger a duration, like computed scores."""
    lines = [line.partition(', "sha256"')[0] + "}" for line in run.ledger.read_text().splitlines()]
    run.ledger.write_text("".join(line.replace('"seconds": 0.0', '"seconds": 0.5') + "\n" for line in lines))


def test_every_stage(run, config):
    timed(run)
    found, batch = costs(run, config), config.supernet.batch_size
    assert set(found) == {"train-supernet", "search", "retrain", "evaluate"}
    supernet, scores, retrain = found["train-supernet"], found["search"], found["retrain"]
    assert (supernet.images, supernet.macs, supernet.seconds) == (600 * batch, 2 * 3 * 1e6 * 600 * batch, 75)
    every = read_ledger(run.ledger)
    assert (scores.images, scores.macs) == (480, 2 * 40 * sum(c.costs["macs"] for c in every))
    macs = spec_macs(every[-1].spec)
    assert retrain.macs == 3 * macs * 600 * config.retrain.batch_size and retrain.seconds == 75
    assert found["evaluate"].macs == 1000 * macs


def test_the_evaluation_of_another_network(run, config):
    update_summary(run, "evaluate", {"model": "/other/net", "macs": 7})
    assert costs(run, config)["evaluate"].macs == 1000 * 7
    update_summary(run, "evaluate", {"macs": None})  # of an older version
    assert "evaluate" not in costs(run, config)


def test_one_side_and_sandwich(config):
    run = train(config, "train-supernet", steps=10)
    one = config.supernet.model_copy(update={"sharing": "ordinal", "sampling": "sandwich", "random_subnets": 2})
    changed = config.model_copy(update={"supernet": one})
    smallest = spec_macs(genome.decode(config.space, genome.smallest(config.space)))
    step = 1e6 + smallest + 2 * (1e6 + smallest) / 2  # largest, smallest, two random ones in between
    assert costs(run, changed)["train-supernet"].macs == pytest.approx(3 * step * 10 * one.batch_size)


def test_scores_known_before_cost_nothing(config):
    run, _ = search(config)
    assert costs(run, config) == {}


def test_finalists_and_check(config):
    run, best = search(config)
    row = {"rung": 1, "accuracy": 0.5, "loss": 1.0, "macs": 100, "score": 0.5, "goes_on": True, "wins": False}
    rows = [row | {"candidate": 1, "step": 10}, row | {"candidate": 2, "step": 10}]
    rows.append(row | {"candidate": 1, "rung": 2, "step": 30})
    run.finalists.write_text("".join(json.dumps(r) + "\n" for r in rows))
    update_summary(run, "search", {"finalists": {"seconds": 50}})
    trained = {"score": 0.5, "stderr": None, "accuracy": 0.5, "steps": 7, "macs": 1000, "seconds": 2.0}
    tau = {"value": 0.0, "low": 0.0, "high": 0.0}
    nets = [trained | {"spec": best.spec.to_dict()}] * 3
    write_json(run.check, {"tau": tau, "within_patch_size": None, "steps": 7, "settings": {}, "nets": nets})
    found, batch = costs(run, config), config.retrain.batch_size
    finalists, check = found["search: finalists"], found["search: check of the supernet"]
    assert (finalists.images, finalists.macs, finalists.seconds) == (40 * batch, 3 * 100 * 40 * batch, 50)
    assert (check.images, check.macs, check.seconds) == (21 * batch, 3 * 1000 * 21 * batch, 6.0)
    starts = read_starts(run)  # 2 ranks trained two networks at a time
    assert cost_section.duration(finalists, starts) == 25 and cost_section.duration(check, starts) == 3


def test_racing_counts_every_image_once(config):
    """The ledger has the images of dropped candidates too; races.jsonl has the points of every look at them."""
    run, _ = search(config)
    timed(run)
    before = costs(run, config)["search"]
    run.races.write_bytes(run.ledger.read_bytes() * 3)
    assert costs(run, config) == {"search": before} and before.seconds == pytest.approx(0.5 * 12)


@pytest.mark.parametrize(("machine", "ranks", "local", "hours", "unit"), [
    ({"cores": 4}, 2, 2, 4.0, "core"),  # one hour on all cores
    ({"cores": 4}, 8, 2, 16.0, "core"),  # four machines
    ({"cores": 4, "gpu": "H100"}, 8, 8, 8.0, "GPU"),
])  # fmt: skip
def test_hours(machine, ranks, local, hours, unit):
    start = {"stage": "retrain", "world_size": ranks, "local_world_size": local, "machine": machine}
    cost = cost_section.Cost("retrain", "retrain", 1, 1.0, 3600)
    assert cost_section.hours_of(cost, [start]) == (hours, unit)


def test_the_table_adds_up(run, config):
    timed(run)
    found = cost_section.section(run, config, read_thinned_metrics(run), read_starts(run), read_candidates(run, config))
    *rows, total = found["rows"]
    assert sum(int(row[1].replace(",", "")) for row in rows) == int(total[1].replace(",", ""))
    assert sum(float(row[-1].rstrip("%")) for row in rows) == pytest.approx(100, abs=0.3)
    assert total[3] == "2:36" and "times the MACs of the retraining" in found["note"]
    unfinished = train(config, "train-supernet", steps=600)
    (unfinished.path / "summary.json").unlink()
    assert costs(unfinished, config)["train-supernet"].seconds > 0
