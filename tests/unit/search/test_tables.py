"""Tables of a search.

Reference: the candidates of a search.
"""

from tests.helpers.searches import BUDGET, SMALL, each, likeness, search
from vitas_ds.config import Search
from vitas_ds.search.scoring.candidate import Score
from vitas_ds.search.scoring.ledger import in_memory
from vitas_ds.search.tables import COLUMNS, FRONT_COLUMNS, front_rows, table_rows

CFG = Search(population=6, generations=2, macs=BUDGET)


def test_a_table_has_one_row_per_candidate():
    candidates = search(SMALL, CFG, each(lambda s: Score(likeness(s), 0.01)), in_memory(), 0).candidates
    table = table_rows(candidates)
    assert len(table) == 12 and {len(row) for row in table} == {len(COLUMNS)}
    first, candidate = dict(zip(COLUMNS, table[0], strict=True)), candidates[0]
    assert (first["generation"], first["score"], first["depth"]) == (1, candidate.value, candidate.spec.depth)
    front = front_rows([candidate.to_dict() | {"index": 0}])
    assert dict(zip(FRONT_COLUMNS, front[0], strict=True)) == first | {"index": 0}
