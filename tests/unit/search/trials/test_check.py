"""How well the supernet ranks networks trained alone. References: scipy, the ledger, an uninterrupted check."""

import json
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kendalltau

from tests.helpers.digits import write_digits
from tests.helpers.paths import ROOT
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import LayerSpec, SubnetSpec, spec_from_dict
from vitas_ds.errors import Preempted, UserError
from vitas_ds.recipe import load
from vitas_ds.run.metrics import read_metrics
from vitas_ds.run.run_dir import run_of
from vitas_ds.run.summary import read_summary
from vitas_ds.search.results import select
from vitas_ds.search.scoring.candidate import Score
from vitas_ds.search.scoring.ledger_reader import read_ledger
from vitas_ds.search.trials import check, correction
from vitas_ds.search.trials.check_result import describe, headline, table_rows
from vitas_ds.search.trials.store import Outcome
from vitas_ds.stages import search, train_supernet


def test_tau_and_rows_by_hand():
    """Of the six pairs, five are in the same order: tau is 4 / 6."""
    specs = [SubnetSpec(28, 7, 32, 10, (LayerSpec(2, 48, 32),) * depth) for depth in (1, 2, 3, 4)]
    scores = [Score(value, 0.05, 80) for value in (0.2, 0.4, 0.3, 0.5)]
    outcomes = [Outcome(9, value, 0.04, 1.0, 2.5) for value in (0.5, 0.6, 0.7, 0.8)]
    found = check.compare(specs, scores, outcomes)
    assert found["tau"]["value"] == pytest.approx(4 / 6)
    assert found["tau"]["low"] <= found["tau"]["value"] <= found["tau"]["high"] <= 1
    assert found["within_patch_size"] is None
    sizes = [replace(spec, patch_size=7 if i in (1, 2) else 14) for i, spec in enumerate(specs)]
    assert check.compare(sizes, scores, outcomes)["within_patch_size"]["value"] == 0  # of two pairs, one is in order
    assert found["nets"][2] == {
        "score": 0.3, "stderr": 0.05, "accuracy": 0.7, "steps": 9, "seconds": 2.5, "macs": spec_macs(specs[2]),
        "spec": specs[2].to_dict(),
    }  # fmt: skip
    numbers = headline(found)
    assert numbers["tau"] == found["tau"] and numbers["nets"] == 4 and numbers["steps"] == 9
    assert table_rows(found)[1] == [2, 0.4, 0.05, 0.6, spec_macs(specs[1]), 2, 7, 32]
    text = (
        "Kendall's tau 0.60 [{}, 0.90] between the scores by the supernet and the accuracy of 4 networks after 9 steps"
    )
    assert describe(found | {"tau": {"value": 0.6, "low": 0.1, "high": 0.9}}, False) == text.format("0.10") + " alone"
    assert "may be no better than chance" in describe(found | {"tau": {"value": 0.6, "low": -0.1, "high": 0.9}}, False)
    within = {"value": -0.5, "low": -1.0, "high": 0.2}
    assert "-0.50 [-1.00, 0.20] within a patch size" in describe(found | {"within_patch_size": within}, False)


def test_the_remaining_time_by_hand():
    """A network of 3 units of work is done after 6 s, 1 of 4 of the next one after 2 s: 3 are left."""
    pace = check.Pace(time.monotonic() - 8, 3, 4)
    assert pace.seconds_left(1) == pytest.approx(3 * 2, abs=0.1)
    assert replace(pace, later=10).seconds_left(1) == pytest.approx((3 + 10) * 2, abs=0.1)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Words of a recipe, with a trained supernet in the run "trained"."""
    folder = tmp_path_factory.mktemp("check")
    write_digits(folder / "digits")
    words = [f"run.dir={folder}/runs", f"data.train={folder}/digits/train", "supernet.lr=0.01"]
    words += ["retrain.drop_path_rate=0.0", "retrain.lr=0.01", "search.population=4", "supernet.sharing=ordinal"]
    words += [f"{stage}.{key}" for stage in ("supernet", "retrain") for key in ("init_std=null", "mixing.cutmix=0.0")]
    config = config_of(words, "trained")
    train_supernet.run(config)
    return [*words, f"search.checkpoint={run_of(config).supernet_weights}"]


def config_of(words, name, nets=0, steps=25):
    checked = [f"search.check.nets={nets}", f"search.check.steps={steps}"] if nets else []
    return load(str(ROOT / "tests" / "fixtures" / "tiny.yaml"), [*words, f"run.name={name}", *checked])


@pytest.fixture(scope="module")
def done(words):
    config = config_of(words, "done", 5)
    search.run(config)
    return run_of(config)


def result_of(run):
    """Return the result without durations."""
    result = json.loads(run.check.read_text())
    for row in result["nets"]:
        row.pop("seconds")
    return result


def test_the_result_is_in_every_record(done):
    result = result_of(done)
    rows = result["nets"]
    assert len({json.dumps(row["spec"]) for row in rows}) == 5
    assert {row["spec"]["patch_size"] for row in rows} == {7, 14} and len({row["accuracy"] for row in rows}) > 1
    expected = kendalltau([row["score"] for row in rows], [row["accuracy"] for row in rows]).statistic
    assert result["tau"]["value"] == pytest.approx(0.0 if np.isnan(expected) else expected)
    assert read_summary(done)["search"]["check"] == headline(result) | {"correct": False}
    (record,) = [row for row in read_metrics(done) if row.get("evaluation")]
    assert record["check/tau"] == result["tau"]["value"] and (done.figures / "check.png").exists()
    known = {c.spec.key(): c.value for c in read_ledger(done.ledger)}
    both = [row for row in rows if json.dumps(row["spec"]) in known]
    assert all(known[json.dumps(row["spec"])] == row["score"] for row in both)


def test_a_second_start_repeats_nothing_and_more_networks_add_to_the_same(words, done, capsys):
    states = {path.name: path.stat().st_mtime_ns for path in done.check_states.glob("*-25.json")}
    before = result_of(done)
    search.run(config_of(words, "done", 5))
    assert "search: done already" in capsys.readouterr().out
    search.run(config_of(words, "done", 7))
    after = result_of(done)
    assert len(after["nets"]) == 7 and after["nets"][:5] == before["nets"]
    now = {path.name: path.stat().st_mtime_ns for path in done.check_states.glob("*-25.json")}
    assert states.items() < now.items() and len(now) == 7 and "(5 done)" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"search\.check\.steps=25 \(now 26\)") as error:
        search.run(config_of(words, "done", 7, 26))
    assert "\n" not in str(error.value)


def test_a_search_with_corrected_scores(words, done, capsys):
    """The networks of the check are trained once. The ledger has measured scores, everything else corrected ones."""
    search.run(config_of(words, "done", 9))
    assert "corrected scores: " in capsys.readouterr().out and "supernet_score" not in done.best.read_text()
    trained = {path.name: path.stat().st_mtime_ns for path in done.check_states.glob("*-25.json")}
    with pytest.warns(UserWarning, match=r"does not use the scores of the supernet \(weight 0\)"):  # all are equal
        search.run(config_of([*words, "search.check.correct=true"], "done", 9))
    assert "corrected scores, which the search uses" in capsys.readouterr().out
    assert trained == {path.name: path.stat().st_mtime_ns for path in done.check_states.glob("*-25.json")}
    best, result = json.loads(done.best.read_text()), json.loads(done.check.read_text())
    corrected = correction.of_check(result)
    assert best["correction"] == corrected.to_dict() and best["stderr"] is None
    for row in (*best["top"], *json.loads(done.pareto.read_text())):
        expected = corrected([spec_from_dict(row["spec"])], np.array([row["supernet_score"]]))[0]
        assert row["score"] == pytest.approx(expected, abs=1e-12)
    measured = read_ledger(done.ledger)
    assert all(0 <= c.value <= 1 and c.supernet_score is None for c in measured)
    top = [row["score"] for row in best["top"]]
    assert top == sorted(top, reverse=True)
    found = list(correction.corrected(done, [c for c in measured if c.images == best["searched_on"]]))
    limit = max(c.costs["macs"] for c in found) + 1
    assert (
        select(done, f"search:macs<{limit}").key() == max(found, key=lambda c: (c.value, -c.costs["macs"])).spec.key()
    )
    assert read_summary(done)["search"]["check"]["corrected"] == result["corrected"]
    assert not read_summary(done)["search"].get("separation")
    search.run(config_of([*words, "search.check.correct=true"], "done", 9))
    assert "search: done already" in capsys.readouterr().out
    kept = done.check.read_text()
    done.check.unlink()  # the results do not need it
    assert select(done, f"search:macs<{limit}") == max(found, key=lambda c: (c.value, -c.costs["macs"])).spec
    done.baselines.write_text("{}")
    search.run(config_of(words, "done"))  # without a check
    assert "supernet_score" not in done.best.read_text() and not done.baselines.exists()
    assert list(correction.corrected(done, measured)) == measured and read_summary(done)["search"]["check"] is None
    done.check.write_text(kept)


def test_a_check_that_a_signal_stops_resumes_to_the_same_result(words, done, monkeypatch):
    """The signal arrives in the second training, after a state was saved."""
    config = config_of(words, "stopped", 5)
    progress, calls = check.Check._progress, []

    def stopping(self, i, *pace):
        report = progress(self, i, *pace)

        def stop(step, loss):
            report(step, loss)
            calls.append((i, step))
            if len(calls) == 5:
                os.kill(os.getpid(), signal.SIGTERM)

        return stop

    with monkeypatch.context() as patch:
        patch.setattr(check.Check, "_progress", stopping)
        with pytest.raises(Preempted):
            search.run(config)
    run = run_of(config)
    assert not run.check.exists() and len(list(run.check_states.glob("*-25.json"))) == 1
    assert len(list(run.check_states.glob("*.safetensors"))) == 2
    search.run(config)
    expected = result_of(done)
    found = result_of(run)
    assert found["nets"] == expected["nets"][:5]
    assert not list(run.check_states.glob("*.safetensors"))


def test_settings_that_make_no_sense_are_one_line():
    for nets, steps, text in ((3, 9, "4 or more"), (4, 0, "nets is set, but steps is 0")):
        with pytest.raises(UserError, match=text) as error:
            config_of([], "wrong", nets, steps)
        assert "\n" not in str(error.value) and "search.check" in str(error.value)
