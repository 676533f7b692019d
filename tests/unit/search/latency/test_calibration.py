"""Latency as a cost: exact in the feasible set, calibrated once per run, confirmed by measurement at the end.

References: latencies from a formula, a list of every network, and measurements on this machine.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.helpers.searches import BUDGET, PREDICTOR, SMALL, TIMED, each, likeness, search
from vitas_ds import config
from vitas_ds.arch import genome
from vitas_ds.arch.space import SearchSpace, WidthTable
from vitas_ds.arch.spec import SubnetSpec, spec_from_dict
from vitas_ds.config import Config, Search
from vitas_ds.distributed.comm import Ranks
from vitas_ds.errors import UserError
from vitas_ds.run.run_dir import RunDir
from vitas_ds.search.confirm import confirm
from vitas_ds.search.feasible import budget as budgets
from vitas_ds.search.feasible.budget import COSTS, PS_PER_SECOND
from vitas_ds.search.feasible.table import feasible_set
from vitas_ds.search.latency.cache import LatencyCache
from vitas_ds.search.latency.calibration import LatencyModel, calibrate
from vitas_ds.search.latency.lines import Latency, Line, format_line
from vitas_ds.search.problem import SearchProblem
from vitas_ds.search.ranking import hypervolume, make_result, ranked
from vitas_ds.search.results import select, write_results
from vitas_ds.search.runtime import open_runtime
from vitas_ds.search.scoring.candidate import candidate_from_dict
from vitas_ds.search.scoring.ledger import in_memory, open_ledger
from vitas_ds.stages.train_supernet import identity_prob
from vitas_ds.training import sampling

CPU = torch.device("cpu")


SETTING = {"device": "here", "runtime": "none", "batch_size": 32, "precision": "fp32"}


def latency_model(tmp_path, measure_one) -> LatencyModel:
    """Return a model that measures with ``measure_one`` and predicts with ``PREDICTOR``."""

    def measure(spec: SubnetSpec) -> Latency:
        return Latency(measure_one(spec), 1e-5, 30)

    caches = [LatencyCache(tmp_path / "latency.jsonl", SETTING | {"batch_size": n}, measure) for n in (32, 1, 8)]
    return LatencyModel(PREDICTOR, caches[0], 48, tuple(caches[1:]))


def fit(config: Config, run: RunDir, path, budget, any_device=False) -> LatencyModel:
    return calibrate(config, run, path, open_runtime(config, CPU), budget, any_device)


def predicted(spec: SubnetSpec) -> float:
    return float(PREDICTOR(WidthTable.from_specs([spec]))[0])


def test_the_cost_is_the_prediction():
    table = genome.width_table(SearchSpace(), genome.sample(SearchSpace(), np.random.default_rng(0), 500, 0.3))
    assert PREDICTOR.picoseconds(table) / PS_PER_SECOND == pytest.approx(PREDICTOR(table), rel=1e-6)


def test_an_impossible_latency_is_an_error_with_the_closest_network():
    genomes = genome.sample(SMALL, np.random.default_rng(0), 3000, 0.3)
    cheap = budgets.violation({"macs": BUDGET}, budgets.compute_costs(SMALL, genomes)) == 0
    fastest = PREDICTOR(genome.width_table(SMALL, genomes[cheap])).min()
    cfg = Search(macs=BUDGET, throughput=(64 / fastest, 65 / fastest), latency_batch_size=16)
    with pytest.raises(
        UserError, match=r"search\.latency \[.* s, .* s\]: no network .* the closest has macs .* s: patch_size "
    ) as error:
        search(SMALL, cfg, each(likeness), in_memory(), 0, costs=TIMED)
    assert "\n" not in str(error.value)


def test_throughput_and_latency_bound_the_same_thing():
    both = Search(latency=(0.001, 0.02), throughput=(1000, 8000), latency_batch_size=16)
    assert both.seconds == (0.002, 0.016) and both.timed
    assert budgets.from_config(both) == {} and budgets.from_config(both, TIMED) == {"latency": (2 * 10**9, 16 * 10**9)}
    assert Search(throughput=(0, 8000), latency_batch_size=16).seconds == (0.002, float("inf"))
    assert not Search().timed and not Search(algorithm="ga", objectives=("latency",)).timed
    assert Search(algorithm="nsga2", objectives=("latency",)).timed
    with pytest.raises(ValueError, match="contradict each other"):
        Search(latency=(0.1, 0.2), throughput=(1000, 8000), latency_batch_size=16)


def test_latency_is_minimized_as_an_objective():
    cfg = Search(algorithm="nsga2", population=30, generations=15, macs=BUDGET, objectives=("latency",))
    result = search(SMALL, cfg, each(likeness), in_memory(), 0, costs=TIMED)
    baseline = cfg.model_copy(update={"algorithm": "random", "objectives": ()})
    random = search(SMALL, baseline, each(likeness), in_memory(), 0, costs=TIMED)
    max_costs = SearchProblem(SMALL, cfg, 0, TIMED).max_costs
    assert list(max_costs) == ["latency"]
    assert hypervolume(result.candidates, max_costs) > hypervolume(random.candidates, max_costs)
    latencies = [c.costs["latency"] for c in result.pareto]
    assert latencies == sorted(latencies) and len(latencies) > 3


def recipe(**options) -> Config:
    return Config(
        space=SMALL,
        search=Search(**{"latency_batch_size": 2, "latency_nets": 12, "latency_runtime": "torch"} | options),
    )


def test_a_run_measures_once(tmp_path):
    """Real measurements of small networks. A second start and another run in the same folder measure nothing."""
    run, other = RunDir(tmp_path / "a"), RunDir(tmp_path / "b")
    first = fit(recipe(), run, run.search_latency, {"macs": BUDGET})
    lines = (tmp_path / "latency.jsonl").read_text().splitlines()
    assert len(lines) == 12 and first.num_measured == 12
    assert set(first.summary()) >= {"nets", "error", "correlation", "device"}
    assert "measured 12 networks" in first.describe()
    specs = [spec_from_dict(json.loads(line)["spec"]) for line in lines]
    macs = COSTS["macs"](WidthTable.from_specs(specs))
    assert (macs >= BUDGET[0]).all() and (macs <= BUDGET[1]).all()
    again = fit(recipe(), run, run.search_latency, {"macs": BUDGET})
    shared = fit(recipe(), other, other.search_latency, {"macs": BUDGET})
    for model in (again, shared):
        assert model.predictor.coefficients.tolist() == first.predictor.coefficients.tolist()
    assert (tmp_path / "latency.jsonl").read_text().splitlines() == lines


def test_a_predictor_of_another_setting_is_an_error(tmp_path):
    run = RunDir(tmp_path / "a")
    fit(recipe(), run, run.search_latency, {"macs": BUDGET})
    with pytest.raises(UserError, match=r"latency\.json: measured with batch_size 2, not 4"):
        fit(recipe(latency_batch_size=4), run, run.search_latency, {"macs": BUDGET})
    path = run.search_latency
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"setting": saved["setting"] | {"device": "elsewhere"}}))
    with pytest.raises(UserError, match="measured with device 'elsewhere'"):
        fit(recipe(), run, path, {"macs": BUDGET})
    model = fit(recipe(), run, path, {}, any_device=True)
    assert model.predictor.coefficients.tolist() == saved["prices"]


@pytest.fixture
def searched(tmp_path):
    """A finished search within a latency budget, and its problem."""
    cfg = Search(population=20, generations=5, macs=BUDGET, latency=(0.0, 0.0006), top_k=5)
    ledger = open_ledger(RunDir(tmp_path).ledger, {})
    result = search(SMALL, cfg, each(likeness), ledger, 0, costs=TIMED)
    assert max(predicted(c.spec) for c in result.candidates) <= 0.0006 * (1 + 1e-6)
    return result, SearchProblem(SMALL, cfg, 0, TIMED)


def slower(spec: SubnetSpec) -> float:
    """Return a latency that exceeds the prediction for a third of the networks, some of them beyond the budget."""
    return predicted(spec) + 0.0004 * (len(spec.key()) % 3 == 0)


def test_candidates_that_measure_outside_the_budget_are_dropped(searched, tmp_path):
    result, problem = searched
    confirmed = confirm(result, problem, latency_model(tmp_path, slower))
    high = problem.budget["latency"][1]
    inside = [c for c in result.candidates if slower(c.spec) * PS_PER_SECOND <= high]
    expected = make_result(inside)
    assert confirmed.dropped and confirmed.result.best == expected.best
    assert {c.spec for c in confirmed.result.pareto} == {c.spec for c in expected.pareto}
    assert ranked(confirmed.result.candidates)[:5] == ranked(inside)[:5]
    assert all(slower(c.spec) * PS_PER_SECOND > high for c in confirmed.dropped)
    for candidate in [*confirmed.result.pareto, *ranked(confirmed.result.candidates)[:5]]:
        assert confirmed.latencies[candidate.spec.key()]["latency"] == slower(candidate.spec)


def test_all_finalists_measure_within_the_budget(searched, tmp_path):
    """More of them than top_k: 30 of 100 candidates. Those that measure outside would be trained in vain."""
    result, problem = searched
    cfg = problem.cfg.model_copy(update={"finalists": config.Finalists(count=30, steps=1000)})
    confirmed = confirm(result, replace(problem, cfg=cfg), latency_model(tmp_path, slower))
    high = problem.budget["latency"][1]
    inside = ranked([c for c in result.candidates if slower(c.spec) * PS_PER_SECOND <= high])
    assert ranked(confirmed.result.candidates)[:30] == inside[:30] and len(inside) > 30


def test_no_candidate_measuring_within_the_budget_is_an_error(searched, tmp_path):
    result, problem = searched
    with pytest.raises(UserError, match=r"search\.latency .*no candidate measures within it; the nearest takes"):
        confirm(result, problem, latency_model(tmp_path, lambda spec: 2 * predicted(spec) + 0.001))


def test_measured_and_predicted_latency_are_written_and_selected_by(searched, tmp_path):
    result, problem = searched
    confirmed = confirm(result, problem, latency_model(tmp_path, slower))
    top = ranked(confirmed.result.candidates)[:3]
    run = RunDir(tmp_path)
    write_results(run, confirmed.result, top, confirmed.latencies, confirmed.dropped)
    best, front = (json.loads(path.read_text()) for path in (run.best, run.pareto))
    for row, candidate in zip([best, *front], [top[0], *confirmed.result.pareto], strict=True):
        assert row["latency"] == slower(candidate.spec) and row["latency_spread"] == 1e-5
        assert {size: also["seconds"] for size, also in row["latency_also"].items()} == {
            "1": row["latency"], "8": row["latency"],
        }  # fmt: skip
        assert row["predicted_latency"] == pytest.approx(predicted(candidate.spec), rel=1e-6)
    assert len(best["dropped"]) == len(confirmed.dropped)
    dropped = {c.spec for c in confirmed.dropped}
    for limit in np.quantile([predicted(c.spec) for c in result.candidates], [0.3, 0.7]):
        below = [c for c in result.candidates if predicted(c.spec) < limit and c.spec not in dropped]
        selected = select(run, f"search:latency<{limit * 1e3:.9f}m")
        assert selected == select(run, f"search:latency < {limit:.12f}")
        assert likeness(selected) == max(likeness(c.spec) for c in below)
    with pytest.raises(UserError, match=r"no candidate with latency below .* s; the fastest has 0\.\d+ s"):
        select(run, "search:latency<1e-9")


def test_a_line_of_the_ledger_keeps_the_prediction(searched):
    candidate = searched[0].best
    read = candidate_from_dict(json.loads(json.dumps(candidate.to_dict())), "here")
    assert read.costs == candidate.costs and "latency" not in candidate.to_dict()


def phone_table(path, specs) -> None:
    """Write a table of a phone whose latencies are twice those of ``PREDICTOR``."""
    setting = {"device": "phone", "runtime": "coreml", "batch_size": 2, "precision": "fp16"}
    lines = [format_line(Line(spec, Latency(2 * predicted(spec)), setting)) for spec in specs]
    path.write_text("".join(f"{line}\n" for line in lines))


def test_a_table_replaces_measurements(tmp_path, searched):
    """Candidates of the table that exceed the budget are dropped; others have only a prediction."""
    result, problem = searched
    run, path = RunDir(tmp_path / "a"), tmp_path / "phone.jsonl"
    rows = genome.sample(SMALL, np.random.default_rng(0), 40, 0.3)
    specs = [spec.canonical() for spec in genome.decode_all(SMALL, rows)]
    phone_table(path, [*specs, result.best.spec])
    config = recipe(latency_table=str(path), latency_runtime="auto")
    model = fit(config, run, run.search_latency, {})
    assert model.predictor(WidthTable.from_specs(specs)) == pytest.approx(
        2 * PREDICTOR(WidthTable.from_specs(specs)), rel=1e-3
    )
    assert model.summary()["device"] == "phone" and f"{path}: 41 networks on phone" in model.describe()
    assert not run.measured_latencies.exists()
    confirmed = confirm(result, problem, model)
    high = problem.budget["latency"][1]
    is_slow = 2 * predicted(result.best.spec) * PS_PER_SECOND > high
    assert (result.best in confirmed.dropped) == is_slow
    known = {result.best.spec.key(), *(spec.key() for spec in specs)}
    assert set(confirmed.latencies) <= known and result.best.spec.key() in confirmed.latencies
    again = fit(config, run, run.search_latency, {})
    assert again.predictor.coefficients.tolist() == model.predictor.coefficients.tolist()
    phone_table(path, specs[1:])
    with pytest.raises(UserError, match=r"latency\.json: measured with table .* same device, software and table"):
        fit(config, run, run.search_latency, {})


@pytest.mark.slow
def test_sampled_subnets_reach_a_throughput(tmp_path, capsys):
    """The identity probability is fitted to measurements: random subnets take the requested time on average."""
    ranks, run = Ranks(0, 1, 0, CPU), RunDir(tmp_path / "a")
    cfg = Search(latency_batch_size=4, latency_nets=24, latency_runtime="torch")
    model = fit(Config(space=SMALL, search=cfg), run, run.supernet_latency, {})
    samples = [genome.sample(SMALL, np.random.default_rng(1), 4000, prob) for prob in (0.2, 0.6)]
    ends = [model.predictor(genome.width_table(SMALL, sample)).mean() for sample in samples]
    supernet = config.Supernet(throughput=(4 / ends[0], 4 / ends[1]))
    prob = identity_prob(Config(space=SMALL, search=cfg, supernet=supernet), run, ranks)
    subnets = WidthTable.from_specs([sampling.draw(SMALL, 0, step, prob) for step in range(3000)])
    assert model.predictor(subnets).mean() == pytest.approx(np.mean(ends), rel=0.03)
    assert "measured 24 networks" in capsys.readouterr().out
    by_search = cfg.model_copy(update={"latency": (ends[1], ends[0])})
    assert identity_prob(Config(space=SMALL, search=by_search), run, ranks) == pytest.approx(prob, abs=2e-4)
    assert identity_prob(Config(space=SMALL, search=cfg), run, ranks) is None
    with pytest.raises(ValueError, match="set one of them"):
        config.Supernet(throughput=(1, 2), macs=(1, 2))


def test_an_inaccurate_predictor_is_a_warning(tmp_path):
    run = RunDir(tmp_path / "a")
    fit(recipe(), run, run.search_latency, {"macs": BUDGET})
    path = run.search_latency
    path.write_text(json.dumps(json.loads(path.read_text()) | {"error": 0.5}))
    with pytest.warns(UserWarning, match=r"a mean error of 50% on .* delete .*latency\.json and .*jsonl") as warned:
        fit(recipe(), run, path, {"macs": BUDGET})
    assert len(warned) == 1


def test_the_feasible_set_with_latency_is_not_too_large():
    """The space of the first release: the prediction depends on heads, so the rows have their sum too."""
    feasible = feasible_set(SearchSpace(), {"macs": (900_000_000, 1_000_000_000), "latency": (0, 10**12)}, TIMED)
    assert feasible.size() > 1e30
