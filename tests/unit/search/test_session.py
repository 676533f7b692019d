"""Searches with a trained supernet: racing, a complete session, and the subnets that retrain selects from it.

References: full scoring, a second start, and the files of the first.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.helpers import finalists
from tests.helpers.paths import FIXTURES
from tests.helpers.searches import search
from tests.helpers.trained import BUDGET, SPACE, prepare, trained
from vitas_ds.arch.space import WidthTable
from vitas_ds.arch.spec import spec_from_dict
from vitas_ds.config import Config, Search
from vitas_ds.distributed.comm import Ranks
from vitas_ds.errors import UserError
from vitas_ds.recipe import load
from vitas_ds.run.files import write_json
from vitas_ds.run.metrics import read_metrics
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.tracker import Tracker
from vitas_ds.run.tracking import LiveTracker
from vitas_ds.search.ranking import ranked
from vitas_ds.search.scoring.ledger import in_memory
from vitas_ds.search.scoring.ledger_reader import read_ledger
from vitas_ds.search.scoring.racing import Race, format_report, report
from vitas_ds.search.scoring.scorer import Scorer, balanced_order, split_rounds
from vitas_ds.search.session import ScoringInputs, _after_scoring, open_session, run_search
from vitas_ds.stages.retrain import chosen_spec

pytestmark = pytest.mark.slow

ALONE = Ranks(0, 1, 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    model = trained()
    labels = torch.from_numpy(model.images.labels)
    order = balanced_order(model.images.labels, 400, 0)
    return Scorer(model.supernet, model.pixels, labels, prepare, order, ALONE, 50)


def test_the_supernet_has_learned_and_subnets_differ(scorer):
    cfg = Search(algorithm="random", population=10, generations=1)
    scores = [c.value for c in search(SPACE, cfg, scorer, in_memory(), 0, images=400).candidates]
    assert max(scores) > 0.6 and max(scores) - min(scores) > 0.1


def test_racing_finds_the_same_best_candidate_as_full_scoring(scorer):
    """At 95 % confidence, with fewer forward passes. Early rounds rank the survivors almost as the full scores do."""
    cfg = Search(population=12, generations=6, macs=BUDGET)
    off = search(SPACE, cfg, scorer, in_memory(), 0, images=400)
    race = Race(split_rounds(scorer), 0.95, in_memory())
    on = search(SPACE, cfg, scorer, in_memory(), 0, images=400, race=race)
    assert on.best.score == off.best.score
    full = {c.spec: c.score for c in off.candidates}
    both = [c for c in on.candidates if c.images == 400 and c.spec in full]
    assert len(both) > 12 and all(full[c.spec] == c.score for c in both)
    summary = report(race, on.candidates)
    print(off.best.value, on.best.value, format_report(summary))
    computed = sum(c.images for c in on.candidates)
    assert summary["saved"] == pytest.approx(1 - computed / (400 * len(on.candidates))) and summary["saved"] > 0.02
    correlations = [look["correlation"] for look in summary["looks"]]
    assert [look["images"] for look in summary["looks"]] == [50, 100, 200]
    assert correlations[0] > 0.5 and correlations[-1] > 0.8 and correlations[-1] == max(correlations)


def open_one(folder, tracker=None, **search_fields):
    model = trained()
    fields = {"population": 8, "generations": 4, "macs": BUDGET, "top_k": 3, "images": 200, **search_fields}
    config = Config.model_validate({
        "run": {"name": folder.name, "dir": str(folder.parent)}, "space": SPACE.model_dump(),
        "data": {"eval_batch_size": 50}, "engine": {"precision": "fp32"}, "search": fields,
    })  # fmt: skip
    run = RunDir(folder)
    folder.mkdir(exist_ok=True)
    tracker = tracker or LiveTracker(run, "search", 32, 0, [Tracker()], 0.0)
    inputs = ScoringInputs(model.supernet, "trained", model.images, model.pixels, prepare)
    return config, run, open_session(config, run, ALONE, tracker, inputs)


def test_settings_of_scores_name_crop_sharing_and_drop_order(tmp_path):
    made = finalists.setting(tmp_path)
    cpu, before = torch.device("cpu"), made.inputs.settings(made.config, torch.device("cpu"))
    for word in ("data.resize=40", "data.mean=[0.1,0.2,0.3]", "data.std=[0.1,0.2,0.3]", "supernet.sharing=ordinal"):
        name = word.partition("=")[0]
        now = made.inputs.settings(load(str(FIXTURES / "tiny.yaml"), [word]), cpu)
        assert {key for key in now if now[key] != before[key]} == {name}
    elastic = load("elastic_cifar10", ["space.elastic.drop_order=[5, 0]", "supernet.init=scratch"])
    assert made.inputs.settings(elastic, cpu)["space.elastic.drop_order"] == "[5, 0]"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A complete search: two costs as objectives, a throughput budget, racing, a surrogate, baselines."""
    folder = tmp_path_factory.mktemp("runs") / "complete"
    config, run, session = open_one(
        folder, algorithm="nsga2", objectives=("macs", "latency"), throughput=(1, 1e6), latency_batch_size=4,
        latency_nets=12, latency_runtime="torch", latency_also=(1,), racing=0.9, surrogate=0.2, baselines=True,
    )  # fmt: skip
    return config, run, run_search(session)


def test_headline_numbers_agree_with_the_files(done):
    _, run, numbers = done
    best, front = (json.loads(path.read_text()) for path in (run.best, run.pareto))
    assert numbers["scored"] == 32 and numbers["front"] == len(front)
    assert numbers["best"]["score"] == best["score"] and best["images"] == 597 and best["searched_on"] == 200
    for row in [best, *best["top"], *front]:
        assert row["latency"] > 0 and row["predicted_latency"] > 0 and row["latency_spread"] > 0
        assert row["latency_also"]["1"]["seconds"] > 0
    assert numbers["latency"]["nets"] == 12 and 0 <= numbers["latency"]["error"] < 2
    assert numbers["racing"]["confidence"] == 0.9 and len(numbers["racing"]["looks"]) >= 1
    assert numbers["surrogate"]["threshold"] == 0.2 and 0 < numbers["hypervolume"] < 1
    assert set(json.loads(run.baselines.read_text())) == {"random", "uniform"}
    assert sorted(p.name for p in run.figures.iterdir()) == ["front.png", "progress.png", "survivors.png"]


def test_each_generation_has_a_record(done):
    _, run, numbers = done
    rows = read_metrics(run)
    assert [row["step"] for row in rows] == [8, 16, 24, 32] and [row["generation"] for row in rows] == [1, 2, 3, 4]
    volumes = [row["hypervolume"] for row in rows]
    assert volumes == sorted(volumes) and volumes[-1] == numbers["hypervolume"]
    assert all(row["cached"] == 0 and 0 <= row["saved"] < 1 for row in rows)
    assert rows[-1]["surrogate"] == numbers["surrogate"]["correlation"]


def test_a_second_start_scores_nothing_and_has_the_same_result(done, capsys):
    config, run, numbers = done
    before = [path.read_text() for path in (run.ledger, run.best, run.pareto)]
    _, _, session = open_one(run.path, **config.search.model_dump(exclude_unset=True))
    again = run_search(session)
    assert again == numbers
    assert [path.read_text().count("\n") for path in (run.ledger,)] == [before[0].count("\n")]
    tops = [[{k: v for k, v in row.items() if k != "seconds"} for row in json.loads(text)["top"]]
            for text in (before[1], run.best.read_text())]  # fmt: skip
    assert tops[0] == tops[1]
    assert "cached 1 " in capsys.readouterr().out


@pytest.mark.parametrize("choice", ["search:best", "search:best[2]", "search:pareto[1]", "search:macs<200K"])
def test_retrain_selects_a_subnet_of_the_search(done, choice):
    config, run, _ = done
    recipe = config.model_copy(update={"retrain": config.retrain.model_copy(update={"spec": choice})})
    best, front = (json.loads(path.read_text()) for path in (run.best, run.pareto))
    entries = [c for c in read_ledger(run.ledger) if c.images == 200 and c.costs["macs"] < 200_000]
    expected = {
        "search:best": best["spec"], "search:best[2]": best["top"][1]["spec"], "search:pareto[1]": front[1]["spec"],
        "search:macs<200K": ranked(entries)[0].spec.to_dict(),
    }[choice]  # fmt: skip
    assert chosen_spec(recipe, run) == spec_from_dict(expected)


@pytest.mark.parametrize("choice", ["search:pareto[999]", "search:best[9]", "search:macs<1", "search:nothing"])
def test_a_missing_subnet_is_a_one_line_error(done, choice):
    config, run, _ = done
    recipe = config.model_copy(update={"retrain": config.retrain.model_copy(update={"spec": choice})})
    with pytest.raises(UserError, match=r"^retrain\.spec: ") as error:
        chosen_spec(recipe, run)
    assert "\n" not in str(error.value)


def test_an_impossible_throughput_is_a_one_line_error(tmp_path):
    _, _, session = open_one(
        tmp_path, throughput=(1e9, 2e9), latency_batch_size=4, latency_nets=12, latency_runtime="torch"
    )
    with pytest.raises(
        UserError, match=r"search\.latency .* no network of the space is within the budget; the closest has"
    ) as error:
        run_search(session)
    assert "\n" not in str(error.value)
    assert not session.ledger.own


def test_results_measure_within_the_budget(tmp_path):
    """The latency budget excludes some of the candidates."""
    _, _, session = open_one(
        tmp_path / "a",
        latency_runtime="torch",
        latency_batch_size=4,
        latency_nets=12,
        throughput=(1, 1e6),
        generations=1,
    )
    result = search(SPACE, session.config.search, session.scorer, session.ledger, 0, images=200)
    predicted = [session.timing.predictor(WidthTable.from_specs([c.spec]))[0] for c in result.candidates]
    low, high = np.quantile(predicted, [0.1, 0.8]).tolist()
    _, run, session = open_one(
        tmp_path / "b",
        latency_runtime="torch",
        latency_batch_size=4,
        latency_nets=12,
        latency=(low, high),
        generations=2,
    )
    try:
        run_search(session)
    except UserError as error:  # a busy machine may measure all of them outside
        if "no candidate measures within it" not in str(error):
            raise
        pytest.skip(str(error))
    best, front = (json.loads(path.read_text()) for path in (run.best, run.pareto))
    assert all(low <= row["latency"] <= high for row in [*best["top"], *front])
    assert all(not low <= row["latency"] <= high for row in best["dropped"])


def test_the_time_of_the_finalists(tmp_path):
    """They have a quarter of the MACs of the check, which took 4 x 50 s; or 30 times those of all scores."""
    words = ["search.population=10", "search.generations=1", "search.images=128", "retrain.batch_size=128"]
    words += ["search.finalists.count=2", "search.finalists.steps=50", "search.finalists.keep=0.5"]
    spec = {"image_size": 32, "patch_size": 4}
    row = {"score": 0.5, "stderr": None, "accuracy": 0.5, "seconds": 50.0, "macs": 9, "steps": 100, "spec": spec}
    run = RunDir(tmp_path)
    tau = {"value": 0.5, "low": 0.0, "high": 1.0}
    write_json(run.check, {"nets": [row] * 4, "steps": 100, "settings": {}, "tau": tau})
    for check, ranks, expected in ((4, 2, 25), (4, 1, 50), (0, 2, 30 * 30)):
        trained = [f"search.check.nets={check}", f"search.check.steps={25 * check}", "search.check.correct=false"]
        config = load("cifar10", [*words, *trained])
        session = SimpleNamespace(config=config, run=run, ranks=Ranks(0, ranks, 0, torch.device("cpu")))
        assert _after_scoring(session)(30.0) == pytest.approx(expected)
