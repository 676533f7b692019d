"""Run folders with files of finished stages."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vitas_ds.arch import cost, genome
from vitas_ds.arch.space import SearchSpace, WidthTable
from vitas_ds.config import Config
from vitas_ds.run.files import write_json
from vitas_ds.run.start import open_run
from vitas_ds.run.summary import update_summary
from vitas_ds.run.tracking import open_tracker
from vitas_ds.search.ranking import Result
from vitas_ds.search.results import write_results
from vitas_ds.search.scoring.candidate import Candidate, Score
from vitas_ds.search.scoring.ledger import open_ledger
from vitas_ds.search.scoring.ledger_reader import read_ledger
from vitas_ds.search.trials.correction import of_check


@pytest.fixture
def config(tmp_path) -> Config:
    space = {"image_size": 28, "num_classes": 10, "patch_sizes": [4, 7], "embed_dim": 96, "depth": 4,
             "num_heads": [2, 4], "qkv_dim": 192, "mlp_dim": 192, "ratios": [0.5, 1.0]}  # fmt: skip
    run = {"name": "a", "dir": str(tmp_path)}
    data = {"train": "<b>images</b>"}  # a folder name that must be escaped
    return Config.model_validate({"run": run, "space": space, "data": data, "tracking": {"wandb": "disabled"}})


def train(config, stage, steps=600):
    """Write the files of a finished training stage."""
    run = open_run(config, True, stage=stage, world_size=2)
    with open_tracker(config, run, stage, True, total=steps, every=1e9) as tracker:
        for step in range(1, steps + 1):
            loss = float("nan") if step == 50 else 2.0 / step
            tracker.log(step, {"loss": loss, "lr": 1e-3 / step, "grad_norm": 2.0, "net_macs": 1e6}, images=64)
    numbers = {"steps": steps, "loss": 2.0 / steps, "seconds": 75}
    update_summary(run, stage, numbers | ({"macs": 1_200_000} if stage == "retrain" else {}))
    return run


def search(config):
    """Write the files of a finished search; return the run and its best candidate."""
    run = open_run(config, True, stage="search", world_size=2)
    space = SearchSpace.model_validate(config.space.model_dump())
    genomes = genome.canonical(space, genome.sample(space, np.random.default_rng(0), 12))
    candidates = []
    for i, row in enumerate(genomes):
        spec = genome.decode(space, row).canonical()
        table = WidthTable.from_specs([spec])
        costs = {name: int(getattr(cost, name)(table)[0]) for name in ("macs", "vitas_flops", "params")}
        candidates.append(Candidate(spec, costs, 1 + i // 6, Score(0.5 + i / 100, 0.01, 40)))
    ledger = open_ledger(run.ledger, {"supernet": "x"})
    for candidate in candidates:
        ledger.add(candidate)
    best = candidates[-1]
    write_results(run, Result(candidates, best, [best]), [best])
    with open_tracker(config, run, "search", True, total=12, every=1e9) as tracker:
        for step in (6, 12):
            tracker.log(step, {"best": 0.5 + step / 100, "mean": 0.5, "hypervolume": 0.3, "generation": step // 6})
    update_summary(run, "search", {"best": {**best.costs, "score": best.value}, "scored": 12})
    return run, best


def correct(run):
    """Change the files of a finished search into those of one that has corrected its scores. Return the correction."""
    rows = [{"spec": c.spec.to_dict(), "score": c.value, "stderr": None, "macs": c.costs["macs"], "steps": 90,
             "accuracy": 0.4 + 0.1 * (i % 3) + 0.5 * c.value, "seconds": 1.5}
            for i, c in enumerate(read_ledger(run.ledger)[:10])]  # fmt: skip
    tau = {"value": 0.5, "low": 0.1, "high": 0.9}
    result = {"steps": 90, "tau": tau, "corrected": tau, "within_patch_size": None, "settings": {}, "nets": rows}
    correction = of_check(result)
    write_json(run.check, result)
    write_json(run.best, json.loads(run.best.read_text()) | {"correction": correction.to_dict()})
    return correction


@pytest.fixture
def run(config):
    """A run in which all stages have finished."""
    train(config, "train-supernet")
    run, _ = search(config)
    write_json(run.retrain_spec, json.loads(run.best.read_text())["spec"])
    train(config, "retrain")
    update_summary(run, "evaluate", {"top1": 0.9512, "top5": 0.9987, "images": 1000})
    update_summary(run, "export", {"dir": str(run.export), "bytes": 700_000})
    return run
