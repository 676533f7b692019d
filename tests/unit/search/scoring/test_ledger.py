"""The ledger on disk, and what is picked from a search's results."""

import json

import pytest

from tests.helpers.searches import BUDGET, SMALL, each, noise
from vitas_ds.arch.spec import read_spec
from vitas_ds.config import Search
from vitas_ds.errors import UserError
from vitas_ds.search.finalists import rescore
from vitas_ds.search.loop import ranked, search
from vitas_ds.search.results import select, write_results
from vitas_ds.search.scoring.ledger import Score, open_ledger, read_entries

SCORING = {"supernet": "a", "search.side_rule": "accuracy_mean"}


def scored(images: int):
    return lambda specs: (Score(noise(spec), 0.01, images) for spec in specs)


@pytest.fixture
def done(tmp_path):
    """The folder of a finished search, and its result."""
    cfg = Search(population=10, generations=4, macs=BUDGET, images=50)
    ledger = open_ledger(tmp_path / "ledger.jsonl", SCORING)
    result = search(SMALL, cfg, scored(50), ledger, 0, images=50)
    full = rescore(ranked(result.entries)[:5], each(lambda s: Score(1 - noise(s), 0.01, 100)), ledger, 100)
    write_results(tmp_path, result, full)
    return tmp_path, result, full


def test_a_line_holds_the_whole_candidate(done):
    folder, result, _ = done
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").open()]
    assert len(lines) == 45
    first = result.entries[0]
    assert lines[0]["spec"] == first.spec.to_dict() and lines[0]["scoring"] == SCORING
    assert [lines[0][k] for k in ("macs", "vitas_flops", "params", "activations")] == list(first.costs.values())
    assert [lines[0][k] for k in ("score", "stderr", "images")] == [first.score.value, 0.01, 50]
    assert [line["generation"] for line in lines[:40]] == [g for g in (1, 2, 3, 4) for _ in range(10)]
    assert [e.score for e in read_entries(folder / "ledger.jsonl")[:40]] == [e.score for e in result.entries]


def test_a_line_is_on_disk_before_the_next_score_is_asked_for(tmp_path):
    path = tmp_path / "deeper" / "ledger.jsonl"

    def score(specs):
        for i, spec in enumerate(specs):
            assert (len(path.read_text().splitlines()) if path.exists() else 0) == i
            yield noise(spec)

    search(SMALL, Search(population=10, generations=1), score, open_ledger(path, SCORING), 0)


@pytest.mark.parametrize("name", SCORING)
def test_scores_of_other_settings_are_refused(done, name):
    folder = done[0]
    with pytest.raises(UserError, match=rf"ledger.jsonl: line 1: scored with {name} '.*', this search has 'other'"):
        open_ledger(folder / "ledger.jsonl", SCORING | {name: "other"})
    with pytest.raises(UserError, match="scored with"):
        open_ledger(folder / "new.jsonl", SCORING | {name: "other"}, reuse=folder / "ledger.jsonl")


def test_a_missing_ledger_to_reuse_is_told(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl: no such ledger"):
        open_ledger(tmp_path / "l.jsonl", SCORING, reuse=tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"nonsense", "line 2: not a JSON object"),
        (b"[1]", "line 2: not an entry"),
        (b'{"spec": {}}', "line 2: image_size: Field required"),
    ],
)
def test_a_broken_line_in_the_middle_is_named(done, line, told):
    path = done[0] / "ledger.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], line, *lines[2:]]))
    with pytest.raises(UserError, match=told):
        open_ledger(path, SCORING)


def test_a_cost_that_a_line_lacks_is_counted(done):
    path = done[0] / "ledger.jsonl"
    before = read_entries(path)
    lines = [json.loads(line) for line in path.open()]
    path.write_text("".join(json.dumps(line | {"activations": None}) + "\n" for line in lines))
    with pytest.raises(UserError, match="line 1: not an entry"):
        read_entries(path)
    path.write_text("".join(json.dumps({k: v for k, v in x.items() if k != "activations"}) + "\n" for x in lines))
    assert read_entries(path) == before


def test_a_torn_line_is_cut_off(done):
    path = done[0] / "ledger.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])  # all but the end of the line
    open_ledger(path, SCORING)
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:-1])


def test_only_the_main_rank_writes(tmp_path):
    ledger = open_ledger(tmp_path / "l.jsonl", SCORING, is_main=False)
    result = search(SMALL, Search(population=4, generations=1), each(noise), ledger, 0)
    assert not (tmp_path / "l.jsonl").exists()
    assert ledger.find(result.best.spec, 0) == result.best.score


def test_results_by_rank_front_and_bound(done):
    folder, result, full = done
    assert read_spec(folder / "best.json") == full[0].spec
    for rank, entry in enumerate(full, 1):
        assert select(folder, f"search:best[{rank}]") == entry.spec
    assert select(folder, "search:best") == full[0].spec
    for i, entry in enumerate(result.pareto):
        assert select(folder, f"search:pareto[{i}]") == entry.spec
    costs = sorted(entry.costs["macs"] for entry in result.entries)
    limit = costs[20]
    inside = [e for e in result.entries if e.costs["macs"] < limit]
    assert select(folder, f"search:macs<{limit}") == ranked(inside)[0].spec
    assert select(folder, f"search:macs<={costs[0]}") in {e.spec for e in result.entries if e.costs["macs"] == costs[0]}
    assert select(folder, "search:params<1M") == result.best.spec == select(folder, "search:vitas_flops < 0.01G")


def test_results_tell_search_score_and_full_score(done):
    folder, result, full = done
    best = json.loads((folder / "best.json").read_text())
    assert best["searched_on"] == 50 and best["images"] == 100 and best["rank"] == 1
    assert [row["score"] for row in best["top"]] == [entry.score.value for entry in full]
    assert best["search_score"] == noise(full[0].spec)
    front = json.loads((folder / "pareto.json").read_text())
    assert [row["index"] for row in front] == list(range(len(result.pareto)))
    assert [row["macs"] for row in front] == sorted(row["macs"] for row in front)


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("search:nothing", "names no net; allowed: search:best"),
        ("search:pareto", "names no net"),
        ("search:best[0]", r"has best\[1\] to best\[5\]"),
        ("search:best[6]", r"has best\[1\] to best\[5\]"),
        ("search:pareto[99]", r"has pareto\[0\] to pareto\["),
        ("search:macs<1", "no candidate of the search fits; the least macs is"),
        ("search:macs<1.2.3G", "1.2.3 is not a number"),
        ("search:speed<1", "names no net"),
    ],
)
def test_a_choice_that_names_no_net_is_told(done, choice, told):
    with pytest.raises(UserError, match=told):
        select(done[0], choice)


def test_selecting_before_the_search_is_done_is_told(tmp_path):
    for choice in ("search:best", "search:pareto[0]", "search:macs<1G"):
        with pytest.raises(UserError, match="is missing: the search of this run is not done"):
            select(tmp_path, choice)
