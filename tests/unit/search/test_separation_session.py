"""The warning of a complete search. References: the files of the run, and a curve that follows a power law."""

import json

import pytest
import torch

from tests.helpers.trained import BUDGET, prepare, trained
from vitas_ds.config import Config
from vitas_ds.distributed.comm import Ranks
from vitas_ds.run.files import append_line
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.tracker import Tracker
from vitas_ds.run.tracking import LiveTracker
from vitas_ds.search.scoring.ledger_reader import read_ledger
from vitas_ds.search.session import open_session, run_search
from vitas_ds.search.trials.inputs import ScoringInputs

pytestmark = pytest.mark.slow


def run_one(folder, **search):
    model = trained()
    defaults = {"population": 12, "generations": 2, "macs": BUDGET, "images": 20, "top_k": 2}
    sections = {
        "space": model.supernet.space.model_dump(),
        "search": defaults | search,
        "engine": {"precision": "fp32"},
    }
    config = Config.model_validate(sections | {"supernet": {"epochs": 30}, "tracking": {"wandb": "disabled"}})
    folder.mkdir()
    run = RunDir(folder)
    for step in range(100, 1001, 100):
        accuracy = {f"accuracy/random{i}": 1 - 0.1 * (step / 1000) ** -0.5 for i in (1, 2)}
        row = {"stage": "train-supernet", "step": step, "evaluation": True, **accuracy}
        append_line(run.metrics, json.dumps(row))
    with LiveTracker(run, "search", 24, 0, [Tracker()], 0.0) as tracker:
        inputs = ScoringInputs(model.supernet, "trained", model.images, model.pixels, prepare)
        return run, run_search(open_session(config, run, Ranks(0, 1, 0, torch.device("cpu")), tracker, inputs))


def test_twenty_images_are_too_few_for_the_best_candidate(tmp_path, recwarn):
    run, numbers = run_one(tmp_path / "a")
    found = numbers["separation"]
    (text,) = [str(w.message) for w in recwarn if "do not separate" in str(w.message)]
    assert found["warning"] == text and found["probability"] < 0.5
    assert found["images"] == 20 and found["candidates"] == 12 and found["top"] == 2
    assert text.endswith("train the supernet for about 258 epochs (doubling adds 2.9%)")
    errors = [c.stderr for c in read_ledger(run.ledger) if c.images == 20]
    assert min(errors) <= found["stderr"] <= max(errors)


def test_a_front_and_a_supernet_from_elsewhere(tmp_path, recwarn):
    _, numbers = run_one(tmp_path / "front", algorithm="nsga2")
    assert "separation" not in numbers
    _, numbers = run_one(tmp_path / "elsewhere", checkpoint="other/weights.safetensors")
    assert "doubling" not in numbers["separation"]["warning"]
