"""The order by importance, worked out by hand, and its file."""

import json

import pytest

from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.elastic.order import NAME, LayerOrder, Order, by_importance, read_order, write_order
from vitas_ds.elastic.scores import LayerScores, Scores
from vitas_ds.errors import UserError

SPEC = SubnetSpec(32, 8, 3, 10, (LayerSpec(2, 12, 3),))
LAYER = LayerScores((1.0, 2.0), (4.0, 3.0, 0.0, 0.5), (1.0, 2.0, 5.0, 5.0), (0.1, 0.3, 0.3), 0.5, 0.5, 0.5)
SCORES = Scores("w", "d", 8, "labels", (1.0, 3.0, 2.0), (LAYER,))
ORDER = Order((1, 2, 0), (LayerOrder((3, 2, 0, 1), (2, 3, 1, 0), (1, 2, 0)),))  # head 1 first; ties keep their order


def test_most_important_first():
    assert by_importance(SCORES, SPEC) == ORDER
    assert ORDER.inverse() == Order((2, 0, 1), (LayerOrder((2, 3, 1, 0), (3, 2, 0, 1), (2, 0, 1)),))


def test_the_file_restores_the_order(tmp_path):
    assert read_order(tmp_path, SPEC) is None
    write_order(tmp_path, ORDER)
    assert read_order(tmp_path, SPEC) == ORDER
    assert json.loads((tmp_path / NAME).read_text())["inverse"]["embedding"] == [2, 0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d | {"inverse": d["order"]}, "the inverse does not belong to the order"),
        (lambda d: {"order": d["order"]}, "inverse is missing"),
        (lambda d: d | {"order": {"embedding": [0]}}, "order.layers"),
        (lambda d: d | {"order": d["order"] | {"embedding": [0, 1]}}, "not permutations"),
    ],
)
def test_damaged_files_are_one_line(change, message, tmp_path):
    write_order(tmp_path, ORDER)
    path = tmp_path / NAME
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=message) as error:
        read_order(tmp_path, SPEC)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
