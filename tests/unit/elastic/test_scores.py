"""The file of the importance."""

from dataclasses import replace

import pytest

from tests.unit.elastic.test_order import SCORES, SPEC
from vitas_ds.elastic.scores import check_scores, read_scores, write_scores
from vitas_ds.errors import UserError


def test_the_file_keeps_every_number(tmp_path):
    scores = replace(SCORES, embedding=(0.1, 1e-300, 1 / 3))
    write_scores(tmp_path / "a.json", scores)
    assert read_scores(tmp_path / "a.json") == scores


def test_scores_of_another_network_are_refused(tmp_path):
    check_scores(tmp_path, SCORES, SPEC, "w")
    for scores, spec, weights in ((SCORES, SPEC, "v"), (SCORES, replace(SPEC, embed_dim=6), "w")):
        with pytest.raises(UserError, match="measured with other weights"):
            check_scores(tmp_path, scores, spec, weights)


@pytest.mark.parametrize("content", ["", "[]", '{"weights": 3}'])
def test_other_files_are_one_line(content, tmp_path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=r"a\.json: not a file of vitas importance") as error:
        read_scores(tmp_path / "a.json")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"b\.json: No such file"):
        read_scores(tmp_path / "b.json")
