"""Latency as a cost: exact in the feasible table, fitted once for a run, confirmed by measurement at the end."""

import json

import numpy as np
import pytest
import torch

from tests.helpers.searches import BUDGET, PREDICTOR, SMALL, TIMED, each, likeness
from vitas_ds import config
from vitas_ds.arch import genome
from vitas_ds.arch.space import SearchSpace, columns_of
from vitas_ds.config import Config, Search
from vitas_ds.distributed.comm import Ranks
from vitas_ds.errors import UserError
from vitas_ds.run.run_dir import RunDir
from vitas_ds.search.feasible import budget as budgets
from vitas_ds.search.feasible.budget import COSTS, PICO
from vitas_ds.search.feasible.table import feasible
from vitas_ds.search.finalists import confirm
from vitas_ds.search.latency.calibration import Timing, open_timing
from vitas_ds.search.latency.measure import Latencies
from vitas_ds.search.loop import hypervolume, ranked, result_of, search
from vitas_ds.search.results import select, write_results
from vitas_ds.search.scoring.ledger import entry_from_dict, in_memory, open_ledger
from vitas_ds.stages.train_supernet import identity_prob
from vitas_ds.training import sampling

CPU = torch.device("cpu")


def lab(tmp_path, clock) -> Timing:
    """Latencies that ``clock`` tells, predicted by ``PREDICTOR``."""
    return Timing(PREDICTOR, Latencies(tmp_path / "latency.jsonl", {"device": "here"}, clock), 48)


def seconds(spec) -> float:
    return float(PREDICTOR(columns_of([spec]))[0])


def test_the_cost_is_the_prediction():
    table = genome.columns(SearchSpace(), genome.sample(SearchSpace(), np.random.default_rng(0), 500, 0.3))
    assert PREDICTOR.picoseconds(table) / PICO == pytest.approx(PREDICTOR(table), rel=1e-6)


def test_an_impossible_latency_is_found_at_once_with_the_nearest_net():
    nets = genome.sample(SMALL, np.random.default_rng(0), 3000, 0.3)
    cheap = budgets.excess({"macs": BUDGET}, budgets.prices(SMALL, nets)) == 0
    least = PREDICTOR(genome.columns(SMALL, nets[cheap])).min()
    cfg = Search(macs=BUDGET, throughput=(64 / least, 65 / least), latency_batch_size=16)
    with pytest.raises(
        UserError, match=r"search\.latency \[.* s, .* s\]: no net .* the nearest has macs .* s: patch_size "
    ) as error:
        search(SMALL, cfg, each(likeness), in_memory(), 0, costs=TIMED)
    assert "\n" not in str(error.value)


def test_throughput_and_latency_bound_the_same_thing():
    both = Search(latency=(0.001, 0.02), throughput=(1000, 8000), latency_batch_size=16)
    assert both.seconds == (0.002, 0.016) and both.timed
    assert budgets.of_config(both) == {} and budgets.of_config(both, TIMED) == {"latency": (2 * 10**9, 16 * 10**9)}
    assert Search(throughput=(0, 8000), latency_batch_size=16).seconds == (0.002, float("inf"))
    assert not Search().timed and not Search(algorithm="ga", objectives=("latency",)).timed
    assert Search(algorithm="nsga2", objectives=("latency",)).timed
    with pytest.raises(ValueError, match="exclude each other"):
        Search(latency=(0.1, 0.2), throughput=(1000, 8000), latency_batch_size=16)


def test_latency_is_lowered_as_an_objective():
    cfg = Search(algorithm="nsga2", population=30, generations=15, macs=BUDGET, objectives=("latency",))
    progress = []
    result = search(SMALL, cfg, each(likeness), in_memory(), 0, progress.append, costs=TIMED)
    random = search(
        SMALL,
        cfg.model_copy(update={"algorithm": "random", "objectives": ()}),
        each(likeness),
        in_memory(),
        0,
        costs=TIMED,
    )
    most = progress[-1].most
    assert list(most) == ["latency"] and hypervolume(result.entries, most) > hypervolume(random.entries, most)
    told = [entry.costs["latency"] for entry in result.pareto]
    assert told == sorted(told) and len(told) > 3


def test_a_run_measures_once(tmp_path):
    """Real measurements of small nets; a second start, and another run of the same folder, measure none again."""
    run, recipe = RunDir(tmp_path / "a"), Config(space=SMALL, search=Search(latency_batch_size=2, latency_nets=12))
    first = open_timing(recipe, run, run.search, CPU, {"macs": BUDGET})
    lines = (tmp_path / "latency.jsonl").read_text().splitlines()
    assert len(lines) == 12 and first.nets == 12 and set(first.numbers()) >= {"error", "correlation", "device"}
    assert "12 nets measured" in first.line()
    known = [json.loads(line)["spec"] for line in lines]
    prices = [columns_of([sampling_net]) for sampling_net in map(spec_of, known)]
    assert all(BUDGET[0] <= COSTS["macs"](table)[0] <= BUDGET[1] for table in prices)
    again = open_timing(recipe, run, run.search, CPU, {"macs": BUDGET})
    other = open_timing(recipe, RunDir(tmp_path / "b"), tmp_path / "b" / "search", CPU, {"macs": BUDGET})
    for timing in (again, other):
        assert timing.predictor.prices.tolist() == first.predictor.prices.tolist()
    assert (tmp_path / "latency.jsonl").read_text().splitlines() == lines


def spec_of(line):
    return entry_from_dict(
        {"spec": line, "score": 0, "stderr": None, "images": 0, "generation": 1, "seconds": 0}, ""
    ).spec


def test_what_was_measured_otherwise_does_not_hold(tmp_path):
    run, recipe = RunDir(tmp_path / "a"), Config(space=SMALL, search=Search(latency_batch_size=2, latency_nets=12))
    open_timing(recipe, run, run.search, CPU, {"macs": BUDGET})
    other = Config(space=SMALL, search=Search(latency_batch_size=4, latency_nets=12))
    with pytest.raises(UserError, match=r"latency\.json: measured with batch_size 2, here it is 4"):
        open_timing(other, run, run.search, CPU, {"macs": BUDGET})
    path = run.search / "latency.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps(known | {"setting": known["setting"] | {"device": "elsewhere"}}))
    with pytest.raises(UserError, match="measured with device 'elsewhere'"):
        open_timing(recipe, run, run.search, CPU, {"macs": BUDGET})
    assert open_timing(recipe, run, run.search, CPU, {}, anywhere=True).predictor.prices.tolist() == known["prices"]


@pytest.fixture
def found(tmp_path):
    """A finished search inside a latency budget, and that budget."""
    cfg = Search(population=20, generations=5, macs=BUDGET, latency=(0.0, 0.0006))
    ledger = open_ledger(tmp_path / "ledger.jsonl", {})
    result = search(SMALL, cfg, each(likeness), ledger, 0, costs=TIMED)
    budget = budgets.of_config(cfg, TIMED)
    assert max(seconds(e.spec) for e in result.entries) <= 0.0006 * (1 + 1e-6)
    return result, budget


def slower(spec) -> float:
    """Some nets are slower than predicted, a third of them beyond the budget."""
    return seconds(spec) + 0.0004 * (len(spec.key()) % 3 == 0)


def test_nets_that_measure_outside_are_dropped(found, tmp_path):
    result, budget = found
    confirmed = confirm(result, (), 5, lab(tmp_path, slower), budget)
    inside = [e for e in result.entries if slower(e.spec) * PICO <= budget["latency"][1]]
    expected = result_of(inside)
    assert confirmed.dropped and confirmed.result.best == expected.best
    assert {e.spec for e in confirmed.result.pareto} == {e.spec for e in expected.pareto}
    assert ranked(confirmed.result.entries)[:5] == ranked(inside)[:5]
    assert all(slower(e.spec) * PICO > budget["latency"][1] for e in confirmed.dropped)
    for entry in [*confirmed.result.pareto, *ranked(confirmed.result.entries)[:5]]:
        assert confirmed.seconds[entry.spec.key()] == slower(entry.spec)


def test_no_net_inside_by_measurement_is_told(found, tmp_path):
    result, budget = found
    with pytest.raises(UserError, match=r"search\.latency .*no candidate is inside by measurement; the nearest takes"):
        confirm(result, (), 5, lab(tmp_path, lambda spec: 2 * seconds(spec) + 0.001), budget)


def test_measured_and_predicted_latency_are_told_and_selected_by(found, tmp_path):
    result, budget = found
    confirmed = confirm(result, (), 5, lab(tmp_path, slower), budget)
    top = ranked(confirmed.result.entries)[:3]
    write_results(tmp_path, confirmed.result, top, confirmed.seconds, confirmed.dropped)
    best, front = (json.loads((tmp_path / name).read_text()) for name in ("best.json", "pareto.json"))
    for row, entry in zip([best, *front], [top[0], *confirmed.result.pareto], strict=True):
        assert row["latency"] == slower(entry.spec)
        assert row["predicted_latency"] == pytest.approx(seconds(entry.spec), rel=1e-6)
    assert len(best["dropped"]) == len(confirmed.dropped)
    gone = {e.spec for e in confirmed.dropped}
    for limit in np.quantile([seconds(e.spec) for e in result.entries], [0.3, 0.7]):
        fits = [e for e in result.entries if seconds(e.spec) < limit and e.spec not in gone]
        chosen = select(tmp_path, f"search:latency<{limit * 1e3:.9f}m")
        assert chosen == select(tmp_path, f"search:latency < {limit:.12f}")
        assert likeness(chosen) == max(likeness(e.spec) for e in fits)
    with pytest.raises(UserError, match=r"no candidate of the search fits; the least latency is 0\.\d+ s"):
        select(tmp_path, "search:latency<1e-9")


def test_a_line_of_the_ledger_keeps_the_prediction(found):
    entry = found[0].best
    again = entry_from_dict(json.loads(json.dumps(entry.to_dict())), "here")
    assert again.costs == entry.costs and "latency" not in entry.to_dict()


@pytest.mark.slow
def test_sampled_nets_reach_a_throughput(tmp_path, capsys):
    """The identity probability is fitted with measured nets: random nets take as long as asked, on average."""
    ranks, run = Ranks(0, 1, 0, CPU), RunDir(tmp_path / "a")
    measure = Search(latency_batch_size=4, latency_nets=24)
    timing = open_timing(Config(space=SMALL, search=measure), run, run.supernet, CPU, {})
    ends = [timing.predictor(genome.columns(SMALL, genome.sample(SMALL, np.random.default_rng(1), 4000, p))).mean()
            for p in (0.2, 0.6)]  # fmt: skip
    supernet = config.Supernet(throughput=(4 / ends[0], 4 / ends[1]))
    prob = identity_prob(Config(space=SMALL, search=measure, supernet=supernet), run, ranks)
    nets = columns_of([sampling.draw(SMALL, 0, step, prob) for step in range(3000)])
    assert timing.predictor(nets).mean() == pytest.approx(np.mean(ends), rel=0.03)
    assert "24 nets measured" in capsys.readouterr().out
    by_search = measure.model_copy(update={"latency": (ends[1], ends[0])})
    assert identity_prob(Config(space=SMALL, search=by_search), run, ranks) == pytest.approx(prob, abs=2e-4)
    assert identity_prob(Config(space=SMALL, search=measure), run, ranks) is None
    with pytest.raises(ValueError, match="give one of them"):
        config.Supernet(throughput=(1, 2), budget=(1, 2))


def test_a_rough_prediction_is_warned_of(tmp_path):
    run, recipe = RunDir(tmp_path / "a"), Config(space=SMALL, search=Search(latency_batch_size=2, latency_nets=12))
    open_timing(recipe, run, run.search, CPU, {"macs": BUDGET})
    path = run.search / "latency.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"error": 0.5}))
    with pytest.warns(UserWarning, match=r"predicted latencies are 50% off .* remove .*latency\.json and .*jsonl"):
        open_timing(recipe, run, run.search, CPU, {"macs": BUDGET})


def test_the_table_with_latency_is_not_too_large():
    """The first release's space: a prediction depends on heads, so that the table counts them too."""
    table = feasible(SearchSpace(), {"macs": (900_000_000, 1_000_000_000), "latency": (0, 10**12)}, TIMED)
    assert table.size() > 1e30
