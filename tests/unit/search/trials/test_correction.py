"""The correction of scores. References: an accuracy of known form, scikit-learn's leave-one-out, genes by hand."""

import json
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


def test_a_network_is_predicted_from_the_others(scores, truth):
    predicted = correction.left_out(SPECS[:12], scores[:12], truth[:12])
    changed = truth[:12].copy()
    changed[3] += 10
    again = correction.left_out(SPECS[:12], scores[:12], changed)
    assert again[3] == predicted[3] and (again[:3] != predicted[:3]).all()


def test_equal_scores_and_genes_change_nothing():
    """A supernet that scores all networks alike, in a space of one patch size."""
    same = [SPECS[0]] * 8
    found = correction.fit(same, np.full(8, 0.5), np.linspace(0, 1, 8))
    assert found(SPECS[:1], np.array([0.5])) == pytest.approx(0.5) and np.isfinite(found(SPECS[:5], np.zeros(5))).all()


def test_ledgers_keep_the_scores_as_measured(scores, truth):
    found = correction.fit(SPECS[:20], scores[:20], truth[:20])
    known = dict(zip(SPECS, scores, strict=True))
    ledger = in_memory()
    evaluator = CorrectedEvaluator(lambda specs: [Score(known[s], 0.01, 50) for s in specs], ledger, 50, found)
    candidates = price(SMALL, GENOMES[20:30], 1)
    scored = list(evaluator(candidates))
    assert [c.value for c in scored] == pytest.approx(found(SPECS[20:30], scores[20:30]), abs=1e-12)
    assert [c.supernet_score for c in scored] == scores[20:30].tolist()
    assert [c.stderr for c in scored] == pytest.approx([0.01 * found.slope] * 10)
    assert [ledger.find(c.spec, 50).value for c in scored] == scores[20:30].tolist()
    assert list(evaluator(candidates)) == [replace(c, seconds=0.0) for c in scored]
    assert scored[0].to_dict()["supernet_score"] == scores[20]


@pytest.mark.parametrize("block", [3, 1000])
def test_the_candidates_of_a_ledger_have_the_scores_of_the_search(tmp_path, scores, truth, monkeypatch, block):
    monkeypatch.setattr(correction, "BLOCK", block)
    run = RunDir(tmp_path)
    run.search.mkdir(parents=True)
    rows = [
        {"score": float(score), "accuracy": float(accuracy), "spec": spec.to_dict()}
        for spec, score, accuracy in zip(SPECS[:20], scores, truth, strict=False)
    ]
    result = {"tau": {}, "within_patch_size": None, "steps": 9, "nets": rows, "settings": {}}
    measured = list(Evaluator(lambda specs: [0.45] * len(specs), in_memory())(price(SMALL, GENOMES, 1)))
    for extra in ({}, {"correct": False}):  # the first one is that of an earlier version
        run.check.write_text(json.dumps(result | extra))
        assert list(correction.corrected(run, measured)) == measured
    run.check.write_text(json.dumps(result | {"correct": True}))
    found = list(correction.corrected(run, iter(measured)))
    expected = correction.fit(SPECS[:20], scores[:20], truth[:20])(SPECS, np.full(60, 0.45))
    assert [c.value for c in found] == pytest.approx(expected)
    assert all(c.supernet_score == 0.45 for c in found)


@pytest.mark.parametrize("nets", [-1, [3], [{"score": "a", "accuracy": 0.5, "spec": {}}], [{"score": 0.5, "spec": {}}]])
def test_a_changed_check_is_one_line(tmp_path, nets):
    run = RunDir(tmp_path)
    run.search.mkdir(parents=True)
    run.check.write_text(json.dumps({"tau": {}, "within_patch_size": None, "steps": 9, "nets": nets, "settings": {}}))
    with pytest.raises(UserError, match=r"check\.json: not a result of the check; remove it"):
        read_check(run)


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
