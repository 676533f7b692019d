"""What the pictures show, and that they are there."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.searches import BUDGET, SMALL, each, likeness
from vitas_ds.config import Search
from vitas_ds.search.loop import hypervolume, ranked, search
from vitas_ds.search.plots import COLUMNS, draw, rows, survivors
from vitas_ds.search.scoring.ledger import Score, in_memory


@pytest.fixture(scope="module")
def told():
    progress = []
    cfg = Search(population=20, generations=6, macs=BUDGET)
    search(SMALL, cfg, each(lambda s: Score(likeness(s), 0.01)), in_memory(), 0, progress.append)
    return progress[-1]


def test_every_picture_is_written(told, tmp_path):
    paths = draw(told, SMALL, 20, tmp_path / "figures")
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == ["front.png", "progress.png", "survivors.png"]
    for path in paths.values():
        assert len(np.unique(np.asarray(Image.open(path)))) > 20  # something is drawn


def test_the_hypervolume_is_that_of_a_hand_count(told):
    """The area under the stairs of the best score at each cost; it never falls."""
    generations = [[e for e in told.entries if e.generation <= g] for g in range(1, 7)]
    found = [hypervolume(entries, told.most) for entries in generations]
    assert found == sorted(found)
    most = told.most["macs"]
    assert BUDGET[1] * 0.99 < most <= BUDGET[1]
    xs = np.sort([e.costs["macs"] for e in told.entries])
    best = [max(e.score.value for e in told.entries if e.costs["macs"] <= x) for x in xs]
    widths = np.diff([*xs, most]) / most
    assert found[-1] == pytest.approx((widths * best).sum())


def test_survivors_are_the_best_so_far(told):
    shares = survivors(SMALL, told.entries, 20)
    assert [values for values, _ in shares.values()][:2] == [SMALL.patch_sizes, SMALL.embed_widths]
    for values, share in shares.values():
        assert share.shape == (6, len(values)) and share.sum(1) == pytest.approx(np.ones(6))
    best = ranked(told.entries)[:20]
    depth = np.bincount([e.spec.depth for e in best], minlength=7)[1:] / 20
    assert shares["layers"][1][-1] == pytest.approx(depth)
    heads = [layer.num_heads for e in best for layer in e.spec.layers]
    assert shares["heads of a layer"][1][-1] == pytest.approx([np.mean(np.array(heads) == h) for h in (1, 2, 4)])


def test_the_table_has_a_row_for_each_candidate(told):
    table = rows(told.entries)
    assert len(table) == 120 and {len(row) for row in table} == {len(COLUMNS)}
    first = dict(zip(COLUMNS, table[0], strict=True))
    entry = told.entries[0]
    assert (first["generation"], first["score"], first["depth"]) == (1, entry.score.value, entry.spec.depth)
