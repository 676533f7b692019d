"""The correction of scores. References: an accuracy of known form, scikit-learn's leave-one-out, genes by hand."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from tests.helpers.searches import BUDGET, SMALL
from vitas_ds.arch import genome
from vitas_ds.arch.space import WidthTable
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.errors import UserError
from vitas_ds.recipe import load
from vitas_ds.run.run_dir import RunDir
from vitas_ds.search.corrected import CorrectedEvaluator
from vitas_ds.search.feasible.operators import sample_distinct
from vitas_ds.search.feasible.table import feasible_set
from vitas_ds.search.scoring.candidate import Score, price
from vitas_ds.search.scoring.evaluation import Evaluator
from vitas_ds.search.scoring.ledger import in_memory
from vitas_ds.search.trials import correction
from vitas_ds.search.trials.check_result import read_check

GENOMES = sample_distinct(feasible_set(SMALL, {"macs": BUDGET}), 60, np.random.default_rng(0))
SPECS = [spec.canonical() for spec in genome.decode_all(SMALL, GENOMES)]


@pytest.fixture
def scores():
    return np.random.default_rng(1).uniform(0.4, 0.5, len(SPECS))


@pytest.fixture
def truth(scores):
    """Accuracies: the score matters, and narrow networks are better than their scores."""
    return 0.3 + 0.5 * scores - 0.05 * np.log2([spec.embed_dim for spec in SPECS])


def test_genes_by_hand():
    net = SubnetSpec(28, 7, 32, 10, (LayerSpec(2, 48, 32), LayerSpec(4, 96, 128)))
    assert 2 ** correction.genes(WidthTable.from_specs([net]))[0] == pytest.approx([7, 32, 2, 3, 72, 80])


def test_a_correction_finds_what_the_scores_ignore(scores, truth):
    found = correction.fit(SPECS[:20], scores[:20], truth[:20])
    corrected = found(SPECS[20:], scores[20:])
    assert spearmanr(corrected, truth[20:]).statistic > 0.97 > spearmanr(scores[20:], truth[20:]).statistic + 0.2
    assert corrected.mean() == pytest.approx(truth[20:].mean(), abs=0.02)
    assert found.slope == pytest.approx(0.5, rel=0.3)


def test_held_out_tau_of_noise_is_near_zero():
    """Corrections of random accuracies rank other networks at random: the mean of 40 draws has an error of 0.04."""
    rng = np.random.default_rng(0)
    taus = [correction.held_out_tau(SPECS[:10], rng.random(10), rng.random(10)).value for _ in range(40)]
    assert abs(np.mean(taus)) < 0.12


def test_held_out_tau_by_hand(scores, truth):
    """Of eight networks, with one fit for each pair; few random pairs of many give about the same."""
    signs = []
    for i, j in itertools.combinations(range(8), 2):
        others = [k for k in range(8) if k not in (i, j)]
        fitted = correction.fit([SPECS[k] for k in others], scores[others], truth[others])
        first, second = fitted([SPECS[i], SPECS[j]], scores[[i, j]])
        signs.append(np.sign(first - second) * np.sign(truth[i] - truth[j]))
    found = correction.held_out_tau(SPECS[:8], scores[:8], truth[:8])
    assert found.value == pytest.approx(np.mean(signs)) and found.low <= found.value <= found.high
    whole = correction.held_out_tau(SPECS[:30], scores[:30], truth[:30]).value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(correction, "PAIRS", 200)
        part = correction.held_out_tau(SPECS[:30], scores[:30], truth[:30]).value
    assert whole > 0.9 and part == pytest.approx(whole, abs=0.1) and part != whole


@pytest.mark.parametrize("score", [0.1, 0.5])
def test_what_does_not_vary_changes_nothing(score):
    """Equal scores of 0.1 have a standard deviation of 1e-17. The embedding width 48 occurs in candidates only."""
    narrow = [replace(spec, embed_dim=48) for spec in SPECS[:10]]
    accuracies = np.linspace(0.2, 0.4, 10)
    found = correction.fit(narrow, np.full(10, score), accuracies)
    assert found.slope == 0
    wide = [replace(spec, embed_dim=64) for spec in narrow]
    assert found(wide, np.full(10, 0.9)) == pytest.approx(found(narrow, np.full(10, score)), abs=1e-12)


def test_equal_accuracies_are_an_error():
    rows = [{"score": 0.1 * i, "accuracy": 0.1, "spec": spec.to_dict()} for i, spec in enumerate(SPECS[:8])]
    with pytest.raises(UserError, match=r"^search\.check\.correct: all 8 networks .* increase search\.check\.steps"):
        correction.of_check({"nets": rows, "steps": 9})


def test_ledgers_keep_the_scores_as_measured(scores, truth):
    found = correction.fit(SPECS[:20], scores[:20], truth[:20])
    known = dict(zip(SPECS, scores, strict=True))
    ledger = in_memory()
    evaluator = CorrectedEvaluator(lambda specs: [Score(known[s], 0.01, 50) for s in specs], ledger, 50, found)
    candidates = price(SMALL, GENOMES[20:30], 1)
    scored = list(evaluator(candidates))
    assert [c.value for c in scored] == pytest.approx(found(SPECS[20:30], scores[20:30]), abs=1e-12)
    assert [c.supernet_score for c in scored] == scores[20:30].tolist()
    assert [c.stderr for c in scored] == [None] * 10  # that of the regression is not known
    assert [ledger.find(c.spec, 50).value for c in scored] == scores[20:30].tolist()
    assert list(evaluator(scored)) == [replace(c, seconds=0.0) for c in scored]  # corrected once, not twice
    assert all("supernet_score" not in c.to_dict() for c in Evaluator(evaluator.score, ledger, 50)(scored))
    assert scored[0].to_dict()["supernet_score"] == scores[20]


@pytest.mark.parametrize("block", [3, 1000])
def test_the_candidates_of_a_ledger_have_the_scores_of_the_search(tmp_path, scores, truth, monkeypatch, block):
    monkeypatch.setattr(correction, "BLOCK", block)
    run = RunDir(tmp_path)
    run.search.mkdir(parents=True)
    fitted = correction.fit(SPECS[:20], scores[:20], truth[:20])
    measured = list(Evaluator(lambda specs: [0.45] * len(specs), in_memory())(price(SMALL, GENOMES, 1)))
    assert list(correction.corrected(run, measured)) == measured  # before the end of the search
    run.best.write_text(json.dumps({"score": 0.4}))
    assert list(correction.corrected(run, measured)) == measured
    run.best.write_text(json.dumps({"score": 0.4, "correction": fitted.to_dict()}))
    found = list(correction.corrected(run, iter(measured)))
    assert [c.value for c in found] == pytest.approx(fitted(SPECS, np.full(60, 0.45)), abs=1e-12)
    assert all(c.supernet_score == 0.45 for c in found)


TAU = {"value": 0.5, "low": 0.1, "high": 0.9}
NET = {"score": 0.5, "accuracy": 0.5, "stderr": None, "macs": 9, "steps": 9, "seconds": 1.5, "spec": {}}
CHECK = {"tau": TAU, "within_patch_size": None, "corrected": TAU, "steps": 9, "nets": [NET] * 8, "settings": {}}
ROWS = (
    {"score": "a"}, {"score": math.nan}, {"accuracy": 1e300}, {"accuracy": math.inf}, {"macs": 0}, {"steps": "x"},
    {"seconds": None}, {"stderr": "x"}, {"spec": 3},
)  # fmt: skip


@pytest.mark.parametrize(
    "damage",
    [
        *({"nets": nets} for nets in (-1, [], [3] * 8, [NET])),
        *({"nets": [NET, NET | row]} for row in ROWS),
        *({name: value} for name in ("tau", "corrected", "within_patch_size") for value in ({}, 5, {"value": "x"})),
        {"tau": None}, {"steps": "x"}, {"steps": True}, {"settings": 3},
    ],
)  # fmt: skip
def test_a_changed_check_is_one_line(tmp_path, damage):
    run = RunDir(tmp_path)
    run.search.mkdir(parents=True)
    run.check.write_text(json.dumps(CHECK))
    assert read_check(run) == CHECK
    run.check.write_text(json.dumps(CHECK | damage))
    with pytest.raises(UserError, match=r"check\.json: not a result of the check; remove it"):
        read_check(run)


@pytest.mark.parametrize("damage", [3, {}, {"mean": "x"}, {"mean": math.nan}, {"scale": [0] * 7}, {"weights": [1]}])
def test_a_changed_correction_is_one_line(tmp_path, scores, truth, damage):
    run = RunDir(tmp_path)
    run.search.mkdir(parents=True)
    whole = correction.fit(SPECS[:20], scores[:20], truth[:20]).to_dict()
    changed = whole | damage if isinstance(damage, dict) and damage else damage
    run.best.write_text(json.dumps({"score": 0.4, "correction": changed}))
    with pytest.raises(UserError, match=r"best\.json: correction: not as the search writes it"):
        correction.read_correction(run)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["search.check.nets=7", "search.check.steps=9"], "correct needs 8 nets or more"),
        ([], "correct needs 8 nets or more"),
        (["search.check.nets=8", "search.check.steps=9", "search.racing=0.9"], "turn one of them off"),
    ],
)
def test_settings_that_contradict_a_correction(words, text):
    with pytest.raises(UserError, match=text) as error:
        load("quickstart", [*words, "search.check.correct=true"])
    assert "\n" not in str(error.value)
