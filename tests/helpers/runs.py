"""Run folders with the files of finished stages."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vitas_ds.arch import cost, genome
from vitas_ds.arch.space import SearchSpace, columns_of
from vitas_ds.config import Config
from vitas_ds.run.files import write_json
from vitas_ds.run.run_dir import update_summary
from vitas_ds.run.start import open_run
from vitas_ds.run.tracking import open_tracker
from vitas_ds.search.loop import Result
from vitas_ds.search.results import write_results
from vitas_ds.search.scoring.ledger import Entry, Score, open_ledger


@pytest.fixture
def config(tmp_path) -> Config:
    space = {"image_size": 28, "num_classes": 10, "patch_sizes": [4, 7], "embed_dim": 96, "depth": 4,
             "num_heads": [2, 4], "qkv_dim": 192, "mlp_dim": 192, "ratios": [0.5, 1.0]}  # fmt: skip
    run = {"name": "a", "dir": str(tmp_path)}
    data = {"train": "<b>images</b>"}  # as hostile as a folder's name can be
    return Config.model_validate({"run": run, "space": space, "data": data, "tracking": {"wandb": "disabled"}})


def train(config, stage, steps=600):
    run = open_run(config, True, stage=stage, world_size=2)
    with open_tracker(config, run, stage, True, total=steps, every=1e9) as tracker:
        for step in range(1, steps + 1):
            loss = float("nan") if step == 50 else 2.0 / step
            tracker.log(step, {"loss": loss, "lr": 1e-3 / step, "grad_norm": 2.0, "net_macs": 1e6}, images=64)
    numbers = {"steps": steps, "loss": 2.0 / steps, "seconds": 75}
    update_summary(run, stage, numbers | ({"macs": 1_200_000} if stage == "retrain" else {}))
    return run


def search(config):
    run = open_run(config, True, stage="search", world_size=2)
    space = SearchSpace.model_validate(config.space.model_dump())
    genomes = genome.canonical(space, genome.sample(space, np.random.default_rng(0), 12))
    entries = []
    for i, row in enumerate(genomes):
        spec = genome.decode(space, row).canonical()
        table = columns_of([spec])
        costs = {name: int(getattr(cost, name)(table)[0]) for name in ("macs", "vitas_flops", "params")}
        entries.append(Entry(spec, costs, Score(0.5 + i / 100, 0.01, 40), 1 + i // 6))
    ledger = open_ledger(run.ledger, {"supernet": "x"})
    for entry in entries:
        ledger.add(entry)
    best = entries[-1]
    write_results(run.search, Result(entries, best, [best]), [best])
    with open_tracker(config, run, "search", True, total=12, every=1e9) as tracker:
        for step in (6, 12):
            tracker.log(step, {"best": 0.5 + step / 100, "mean": 0.5, "hypervolume": 0.3, "generation": step // 6})
    found = {**best.costs, "score": best.score.value}
    update_summary(run, "search", {"best": found, "scored": 12})
    return run, best


@pytest.fixture
def run(config):
    train(config, "train-supernet")
    run, _ = search(config)
    write_json(run.retrain_spec, json.loads(run.best.read_text())["spec"])
    train(config, "retrain")
    update_summary(run, "evaluate", {"top1": 0.9512, "top5": 0.9987, "images": 1000})
    update_summary(run, "export", {"dir": str(run.export), "bytes": 700_000})
    return run
