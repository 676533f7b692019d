"""Candidates for a page: the best ones, an even sample, the front, shares of the choices.

Reference: all candidates of the ledger, ranked by the search.
"""

import numpy as np

from tests.helpers.runs import search
from vitas_ds.reports import candidates
from vitas_ds.reports.candidates import read_candidates
from vitas_ds.search.ranking import ranked
from vitas_ds.search.scoring.ledger_reader import read_ledger
from vitas_ds.search.survivors import survivor_shares


def test_all_candidates_of_a_small_search(config):
    run, best = search(config)
    every, found = read_ledger(run.ledger), read_candidates(run, config)
    assert found.count == 12 and found.sample == every and found.best == ranked(every)
    assert found.chosen == [every[-1]] and found.front == [every[-1]] and found.first == 1
    assert every[-1].spec == best.spec
    assert (found.images, found.macs) == (0, 0)  # the scores took no time: they were known
    shares = survivor_shares(config.space, every, config.search.population)
    for name, (values, first, last) in found.shares.items():
        assert shares[name][0] == values
        assert np.array_equal(first, shares[name][1][0]) and np.array_equal(last, shares[name][1][-1])


def test_some_candidates_of_a_large_search(config, monkeypatch):
    monkeypatch.setattr(candidates, "BEST", 5)
    monkeypatch.setattr(candidates, "SAMPLE", 4)
    run, best = search(config)
    every, found = read_ledger(run.ledger), read_candidates(run, config)
    assert found.best == ranked(every)[:5] and found.sample == every[::3] and found.count == 12
    assert [c.spec for c in found.chosen] == [best.spec] and found.chosen[0] in found.shown


def test_scores_on_all_images_at_the_end_are_left_out(config):
    run, _ = search(config)
    lines = run.ledger.read_text()
    again = lines.splitlines()[0].partition(', "sha256"')[0].replace('"images": 40', '"images": 400') + "}\n"
    run.ledger.write_text(lines + again)
    assert len(read_ledger(run.ledger)) == 13 and read_candidates(run, config).count == 12


def test_a_search_that_has_not_ended(config):
    run, _ = search(config)
    for path in (run.best, run.pareto):
        path.unlink()
    found = read_candidates(run, config)
    assert found.count == 12 and found.chosen == [] and found.front == []
    run.ledger.unlink()
    assert read_candidates(run, config).count == 0
