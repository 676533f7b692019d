"""Figures of a search and the numbers in them.

Reference: the plotted candidates.
"""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.searches import BUDGET, SMALL, each, likeness, search
from vitas_ds.config import Search
from vitas_ds.search.plots import front_figure, save_figures
from vitas_ds.search.problem import SearchProblem
from vitas_ds.search.ranking import hypervolume, ranked
from vitas_ds.search.scoring.candidate import Score
from vitas_ds.search.scoring.ledger import in_memory
from vitas_ds.search.survivors import survivor_shares

CFG = Search(population=20, generations=6, macs=BUDGET)


@pytest.fixture(scope="module")
def summary():
    summaries = []
    search(SMALL, CFG, each(lambda s: Score(likeness(s), 0.01)), in_memory(), 0, summaries.append)
    return summaries[-1]


def test_every_figure_is_written(summary, tmp_path):
    paths = save_figures(summary, SearchProblem(SMALL, CFG, 0), tmp_path / "figures")
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == ["front.png", "progress.png", "survivors.png"]
    for path in paths.values():
        assert len(np.unique(np.asarray(Image.open(path)))) > 20  # not blank


def test_the_budget_is_drawn_where_it_is_near(summary):
    """Only limits within a factor of 1.5 of the candidates, in millions of MACs."""
    figure = front_figure(summary.candidates, ("macs",), {"macs": (0, BUDGET[1]), "params": (1, 2)})
    dashed = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert [line.get_xdata()[0] for line in dashed] == [pytest.approx(BUDGET[1] / 1e6)]
    assert figure.axes[0].get_xlabel() == "MACs per image [M]"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(labels) == ["best up to this cost, standard error", "budget"]


def test_the_hypervolume_is_the_area_computed_by_hand(summary):
    """It is the area below the best score at each cost, and it never decreases."""
    generations = [[c for c in summary.candidates if c.generation <= g] for g in range(1, 7)]
    found = [hypervolume(candidates, summary.max_costs) for candidates in generations]
    assert found == sorted(found)
    max_macs = summary.max_costs["macs"]
    assert BUDGET[1] * 0.99 < max_macs <= BUDGET[1]
    xs = np.sort([c.costs["macs"] for c in summary.candidates])
    best = [max(c.value for c in summary.candidates if c.costs["macs"] <= x) for x in xs]
    widths = np.diff([*xs, max_macs]) / max_macs
    assert found[-1] == pytest.approx((widths * best).sum())


def test_survivors_are_the_best_candidates_so_far(summary):
    shares = survivor_shares(SMALL, summary.candidates, 20)
    assert [values for values, _ in shares.values()][:2] == [SMALL.patch_sizes, SMALL.embed_widths]
    for values, share in shares.values():
        assert share.shape == (6, len(values)) and share.sum(1) == pytest.approx(np.ones(6))
    best = ranked(summary.candidates)[:20]
    depth = np.bincount([c.spec.depth for c in best], minlength=7)[1:] / 20
    assert shares["layers"][1][-1] == pytest.approx(depth)
    heads = [layer.num_heads for c in best for layer in c.spec.layers]
    assert shares["heads of a layer"][1][-1] == pytest.approx([np.mean(np.array(heads) == h) for h in (1, 2, 4)])
