"""The ledger on disk, and selecting from the results of a search.

References: the written file, and selections by hand.
"""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.helpers.searches import BUDGET, SMALL, each, noise, search
from vitas_ds.arch import genome
from vitas_ds.arch.spec import read_spec
from vitas_ds.config import Search
from vitas_ds.errors import UserError
from vitas_ds.run.run_dir import RunDir
from vitas_ds.search.confirm import rescore
from vitas_ds.search.ranking import ranked
from vitas_ds.search.results import select, write_results
from vitas_ds.search.scoring.candidate import Score, price
from vitas_ds.search.scoring.evaluation import Evaluator
from vitas_ds.search.scoring.ledger import open_ledger
from vitas_ds.search.scoring.ledger_reader import read_ledger

SCORING = {"supernet": "a", "search.side_rule": "accuracy_mean"}


def scored(images: int):
    return lambda specs: (Score(noise(spec), 0.01, images) for spec in specs)


@pytest.fixture
def done(tmp_path):
    """The run folder of a finished search, its result, and the candidates scored again."""
    cfg = Search(population=10, generations=4, macs=BUDGET, images=50)
    ledger = open_ledger(RunDir(tmp_path).ledger, SCORING)
    result = search(SMALL, cfg, scored(50), ledger, 0, images=50)
    evaluator = Evaluator(each(lambda s: Score(1 - noise(s), 0.01, 100)), ledger, 100)
    full = rescore(ranked(result.candidates)[:5], evaluator)
    write_results(RunDir(tmp_path), result, full)
    return RunDir(tmp_path), result, full


def test_a_line_holds_the_complete_candidate(done):
    run, result, _ = done
    lines = [json.loads(line) for line in run.ledger.open()]
    assert len(lines) == 45
    first = result.candidates[0]
    assert lines[0]["spec"] == first.spec.to_dict() and lines[0]["scoring"] == SCORING
    assert [lines[0][k] for k in ("macs", "vitas_flops", "params", "activations")] == list(first.costs.values())
    assert [lines[0][k] for k in ("score", "stderr", "images")] == [first.value, 0.01, 50]
    assert [line["generation"] for line in lines[:40]] == [g for g in (1, 2, 3, 4) for _ in range(10)]
    assert [c.score for c in read_ledger(run.ledger)[:40]] == [c.score for c in result.candidates]


def test_scores_of_another_crop_are_not_reused(tmp_path):
    """Lines of an earlier version say nothing about the crop."""
    path, candidate = tmp_path / "ledger.jsonl", ranked_candidate()
    now = SCORING | {"data.resize": 32, "space.elastic.drop_order": "[2, 0]"}
    for scoring in (SCORING, now):
        path.unlink(missing_ok=True)
        open_ledger(path, scoring).add(candidate)
        assert open_ledger(tmp_path / "new.jsonl", now, path).find(candidate.spec, 50) == candidate.score
    for other in ({"data.resize": 40}, {"space.elastic.drop_order": "null"}):
        with pytest.raises(UserError, match=f"line 1: scored with {next(iter(other))} .*; search.reuse needs equal"):
            open_ledger(tmp_path / "new.jsonl", now | other, path)


def ranked_candidate():
    (candidate,) = price(SMALL, genome.sample(SMALL, np.random.default_rng(0), 1), 1)
    return replace(candidate, score=Score(0.5, 0.01, 50))


def test_a_line_is_on_disk_before_the_next_score(tmp_path):
    path = tmp_path / "deeper" / "ledger.jsonl"

    def score(specs):
        for i, spec in enumerate(specs):
            assert (len(path.read_text().splitlines()) if path.exists() else 0) == i
            yield noise(spec)

    search(SMALL, Search(population=10, generations=1), score, open_ledger(path, SCORING), 0)


@pytest.mark.parametrize("name", SCORING)
def test_scores_with_other_settings_are_an_error(done, name):
    run = done[0]
    with pytest.raises(UserError, match=rf"ledger.jsonl: line 1: scored with {name} '.*', this search has 'other'"):
        open_ledger(run.ledger, SCORING | {name: "other"})
    with pytest.raises(UserError, match="scored with"):
        open_ledger(run.path / "new.jsonl", SCORING | {name: "other"}, reuse=run.ledger)


def test_a_missing_ledger_to_reuse_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl: no such ledger"):
        open_ledger(tmp_path / "l.jsonl", SCORING, reuse=tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"nonsense", "line 2: not a JSON object"),
        (b"[1]", "line 2: not a scored candidate"),
        (b'{"spec": {}}', "line 2: image_size: Field required"),
    ],
)
def test_the_error_names_a_broken_line(done, line, message):
    path = done[0].ledger
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], line, *lines[2:]]))
    with pytest.raises(UserError, match=message):
        open_ledger(path, SCORING)


@pytest.mark.parametrize("field", ["score", "macs", "generation", "images"])
def test_an_edited_line_is_found(done, field):
    path, text = done[0].ledger, done[0].ledger.read_text()
    value = json.loads(text.splitlines()[2])[field]
    lines = text.splitlines()
    lines[2] = lines[2].replace(f'"{field}": {value}', f'"{field}": {value + 1}')
    path.write_text("\n".join(lines) + "\n")
    for read in (read_ledger, lambda p: open_ledger(p, SCORING)):
        with pytest.raises(UserError, match=r"ledger.jsonl: line 3 was changed: its SHA-256 does not match; remove"):
            read(path)
    path.write_text("\n".join([*lines[:2], *lines[3:]]) + "\n")
    assert len(read_ledger(path)) == 44


def test_a_line_without_digest_is_accepted(done):
    path, before = done[0].ledger, read_ledger(done[0].ledger)
    lines = [json.loads(line) for line in path.open()]
    path.write_text("".join(json.dumps({k: v for k, v in x.items() if k != "sha256"}) + "\n" for x in lines))
    assert read_ledger(path) == before


def test_a_missing_cost_is_computed(done):
    path = done[0].ledger
    before = read_ledger(path)
    lines = [json.loads(line) for line in path.open()]
    for line in lines:
        del line["sha256"]
    path.write_text("".join(json.dumps(line | {"activations": None}) + "\n" for line in lines))
    with pytest.raises(UserError, match="line 1: not a scored candidate"):
        read_ledger(path)
    path.write_text("".join(json.dumps({k: v for k, v in x.items() if k != "activations"}) + "\n" for x in lines))
    assert read_ledger(path) == before


def test_an_incomplete_last_line_is_removed(done):
    path = done[0].ledger
    content = path.read_bytes()
    path.write_bytes(content[:-1])  # without the last newline
    open_ledger(path, SCORING)
    assert path.read_bytes() == b"".join(content.splitlines(keepends=True)[:-1])


def test_only_the_main_rank_writes(tmp_path):
    ledger = open_ledger(tmp_path / "l.jsonl", SCORING, is_main=False)
    result = search(SMALL, Search(population=4, generations=1), each(noise), ledger, 0)
    assert not (tmp_path / "l.jsonl").exists()
    assert ledger.find(result.best.spec, 0) == result.best.score


def test_select_by_rank_front_and_bound(done):
    run, result, full = done
    assert read_spec(run.best) == full[0].spec
    for rank, candidate in enumerate(full, 1):
        assert select(run, f"search:best[{rank}]") == candidate.spec
    assert select(run, "search:best") == full[0].spec
    for i, candidate in enumerate(result.pareto):
        assert select(run, f"search:pareto[{i}]") == candidate.spec
    costs = sorted(candidate.costs["macs"] for candidate in result.candidates)
    limit = costs[20]
    below = [c for c in result.candidates if c.costs["macs"] < limit]
    assert select(run, f"search:macs<{limit}") == ranked(below)[0].spec
    assert select(run, f"search:macs<={costs[0]}") in {c.spec for c in result.candidates if c.costs["macs"] == costs[0]}
    assert select(run, "search:params<1M") == result.best.spec == select(run, "search:vitas_flops < 0.01G")


def test_results_contain_search_score_and_full_score(done):
    run, result, full = done
    best = json.loads(run.best.read_text())
    assert best["searched_on"] == 50 and best["images"] == 100 and best["rank"] == 1
    assert [row["score"] for row in best["top"]] == [candidate.value for candidate in full]
    assert best["search_score"] == noise(full[0].spec)
    front = json.loads(run.pareto.read_text())
    assert [row["index"] for row in front] == list(range(len(result.pareto)))
    assert [row["macs"] for row in front] == sorted(row["macs"] for row in front)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("search:nothing", "does not name a candidate; allowed: search:best"),
        ("search:pareto", "does not name a candidate"),
        ("search:best[0]", r"has best\[1\] to best\[5\]"),
        ("search:best[6]", r"has best\[1\] to best\[5\]"),
        ("search:pareto[99]", r"has pareto\[0\] to pareto\["),
        ("search:macs<1", r"no candidate with macs below 1; the cheapest has [0-9.]+K$"),
        ("search:macs<=0.5k", "no candidate with macs at most 500; the cheapest has "),
        ("search:macs<1.2.3G", "1.2.3 is not a number"),
        ("search:speed<1", "does not name a candidate"),
    ],
)
def test_an_invalid_choice_is_an_error(done, choice, message):
    with pytest.raises(UserError, match=message):
        select(done[0], choice)


def test_selecting_before_the_search_has_finished_is_an_error(tmp_path):
    for choice in ("search:best", "search:pareto[0]", "search:macs<1G"):
        with pytest.raises(UserError, match="does not exist: the search of this run has not finished"):
            select(RunDir(tmp_path), choice)
