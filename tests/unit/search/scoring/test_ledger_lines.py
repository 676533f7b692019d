"""Lines of a ledger parsed by pieces equal those parsed as JSON, and a table returns the scores that went in."""

import json
import math
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.searches import SMALL
from vitas_ds.arch import genome
from vitas_ds.arch.space import SearchSpace
from vitas_ds.errors import UserError
from vitas_ds.run.files import to_json
from vitas_ds.search.scoring.candidate import Score, price, score_from_counts
from vitas_ds.search.scoring.ledger import _cut_torn_line, in_memory, open_ledger
from vitas_ds.search.scoring.ledger_lines import LineParser
from vitas_ds.search.scoring.ledger_reader import read_ledger
from vitas_ds.search.scoring.score_table import ScoreTable, key

SCORING = {"supernet": "a" * 64, "search.side_rule": "accuracy_mean", "bits": 16}
PATH = Path("ledger.jsonl")
SPECIAL = (  # fields of pretrained networks
    {}, {"prefix_tokens": 6, "classifiers": 2, "layer_scale": True},
    {"pool": "patches", "norm_eps": 1e-5, "final_norm_eps": 1e-4},
)  # fmt: skip


def candidates(count, space=SMALL, seed=0):
    return price(space, genome.sample(space, np.random.default_rng(seed), count), 1)


def line_of(candidate, scoring=SCORING):
    return to_json(candidate.to_dict() | {"scoring": scoring}).encode()


@st.composite
def scored(draw):
    space = draw(st.sampled_from((SMALL, SearchSpace())))
    candidate = candidates(1, space, draw(st.integers(0, 2**32)))[0]
    images, value = draw(st.integers(0, 20)), draw(st.floats(0, 1))
    counts = draw(st.none() | st.tuples(*[st.integers(0, 2**40)] * 4))
    points = draw(st.none() | st.text("012", min_size=images, max_size=images))
    score = Score(value, draw(st.none() | st.floats(0, 1)), images, counts, points or None)
    costs = candidate.costs | draw(st.just({}) | st.fixed_dictionaries({"latency": st.integers(0, 10**12)}))
    spec = replace(candidate.spec, **draw(st.sampled_from(SPECIAL)))
    spec = replace(
        spec, layers=tuple(replace(x, softmax_scale=draw(st.sampled_from((None, 0.25)))) for x in spec.layers)
    )
    return replace(candidate, spec=spec, score=score, costs=costs, seconds=draw(st.floats(0, 1e6)))


@given(scored())
def test_a_line_equals_its_json(candidate):
    line, parser = line_of(candidate), LineParser(PATH, SCORING)
    found = parser.fast(line, 1)
    assert found is not None
    assert parser.candidate(line, 1) == parser.slow(line, 1)
    assert parser.candidate(line, 1).spec == candidate.spec.canonical()
    assert found.score() == candidate.score
    table = ScoreTable()
    found.add_to(table)
    assert table.get(key(candidate.spec, candidate.images)) == candidate.score


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"num_heads": ', b'"num_heads":'),  # other spaces
        (b'"images": 5', b'"images": 5.0'),
        (b'{"spec"', b'{"note": 1, "spec"'),
        (b'"scoring"', b'"note": {"a": [1]}, "scoring"'),
        (b'"seconds": 0.5', b'"seconds": 5e-1'),
    ],
)
def test_an_edited_line_has_the_same_score(old, new):
    candidate = replace(candidates(1)[0], score=Score(0.25, 0.125, 5), seconds=0.5)
    line = line_of(candidate).replace(old, new)
    assert line != line_of(candidate)
    found = LineParser(PATH, SCORING).candidate(line, 1)
    assert (found.spec, found.score) == (candidate.spec, candidate.score)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (rb'"patch_size": \d+', b'"patch_size": 5', "line 3: image_size .* is not a multiple of patch_size 5"),
        (rb'"num_heads": \d+', b'"num_heads": 7', r"line 3: layers\[0\].qkv_dim .* is not a multiple"),
        (rb'"mlp_dim": \d+', b'"mlp_dim": 0', r"line 3: layers\.0\.mlp_dim"),
        (rb'"layers": \[.*?\]', b'"layers": [{}]', r"line 3: layers\.0\.num_heads: Field required"),
        (rb'"scoring"', b'"points": "01", "scoring"', "line 3: not a scored candidate"),
        (rb'"bits": 16', b'"bits": 32', "line 3: scored with bits 32, this search has 16"),
        (rb'"bits": 16', b'"bits": 16,', "line 3: not a JSON object"),
    ],
)
def test_the_error_of_a_broken_line(old, new, message, tmp_path):
    lines = [line_of(replace(c, score=Score(0.5, None, 9))) for c in candidates(4)]
    lines[2] = re.sub(old, new, lines[2], count=1)
    (tmp_path / "l").write_bytes(b"".join(line + b"\n" for line in lines))
    with pytest.raises(UserError, match=message):
        open_ledger(tmp_path / "l", SCORING)


def test_known_scores_survive_pickling_and_replacing():
    table, kept = ScoreTable(), {}
    for i, candidate in enumerate(candidates(50)):
        for images in (10, 20):
            score = score_from_counts(i % 10, i % 10, images, 2 * images) if i % 3 else Score(i / 100, None, images)
            table.add(key(candidate.spec, images), Score(0.1, 0.2, images))
            score = replace(score, points="1" * images if i % 2 else None)
            table.add(key(candidate.spec, images), score)
            kept[candidate.spec, images] = score
    for found in (table, pickle.loads(pickle.dumps(table))):
        assert len(found) == len(kept)
        assert all(found.get(key(spec, images)) == score for (spec, images), score in kept.items())
        assert found.get(key(candidates(1, seed=9)[0].spec, 11)) is None
        found.add(b"0" * 16, Score(0.75))  # a received table can grow
        assert found.get(b"0" * 16) == Score(0.75)


@given(st.binary(max_size=40), st.integers(1, 9))
def test_the_file_ends_after_its_last_newline(tmp_path_factory, content, block):
    path = tmp_path_factory.mktemp("torn") / "l"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitas_ds.search.scoring.ledger.BLOCK", block)
        _cut_torn_line(path)
    assert path.read_bytes() == content[: content.rfind(b"\n") + 1]


def test_a_ledger_of_many_candidates_stays_small(tmp_path):
    """0.3 kB per score on every rank; 1M candidates must fit into 1 GB."""
    found = [replace(c, score=score_from_counts(5, 9, 10, 20)) for c in candidates(2000, SearchSpace())]
    (tmp_path / "l").write_bytes(b"".join(line_of(c) + b"\n" for c in found))
    ledger = open_ledger(tmp_path / "l", SCORING)
    assert len(ledger.own) == len({c.spec for c in found}) > 1900
    assert len(pickle.dumps(ledger.own)) < 100 * len(ledger.own)
    assert all(ledger.find(c.spec, 10) == c.score for c in found)
    assert read_ledger(tmp_path / "l") == [replace(c, seconds=0.0) for c in found]


def test_adding_to_a_ledger_in_memory():
    ledger, candidate = in_memory(), replace(candidates(1)[0], score=Score(0.5, math.pi, 3))
    assert ledger.find(candidate.spec, 3) is None
    ledger.add(candidate)
    ledger.add(replace(candidate, score=Score(0.25, None, 3)))  # known already
    assert ledger.find(candidate.spec, 3) == candidate.score and ledger.find(candidate.spec, 4) is None
    assert json.loads(line_of(candidate))["stderr"] == math.pi
