"""The same search on one rank and on several, broken off and not: the same ledger, front and best net."""

import json
from pathlib import Path

import launching
import pytest

WORKER = Path(__file__).with_name("search_worker.py")


def run(folder: Path, ranks: int, members: int = 1, kill_after: int = 0) -> None:
    words = launching.command("alone" if ranks == 1 else "torchrun", ranks)
    words += [str(WORKER), str(folder), str(members), str(kill_after)]
    launching.end(launching.begin(words, launching.environment()), words, 120)


def found(folder: Path) -> tuple:
    """All that a search leaves, but for the time it took."""

    def timeless(row):
        return {k: [timeless(x) for x in v] if k == "top" else v for k, v in row.items() if k != "seconds"}

    ledger = [timeless(json.loads(line)) for line in (folder / "ledger.jsonl").open()]
    front = [timeless(row) for row in json.loads((folder / "pareto.json").read_text())]
    return ledger, front, timeless(json.loads((folder / "best.json").read_text()))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    run(folder, 1)
    return found(folder)


@pytest.mark.parametrize("members", [1, 0], ids=["candidates", "images"])
def test_two_ranks_find_what_one_finds(tmp_path, alone, members):
    run(tmp_path, 2, members)
    assert found(tmp_path) == alone
    assert len(alone[0]) == 21 + 3 and len({e["score"] for e in alone[0]}) > 5


def test_a_broken_search_goes_on_with_another_number_of_ranks(tmp_path, alone):
    run(tmp_path, 2, kill_after=10)
    assert len((tmp_path / "ledger.jsonl").read_text().splitlines()) == 10
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"spec": {"image_si')
    run(tmp_path, 1)
    assert found(tmp_path) == alone


def test_all_ranks_hold_rank_0s_latencies(tmp_path):
    """Measured once, by rank 0; a second start, on one rank, measures nothing."""
    held = []
    for ranks in (2, 1):
        words = launching.command("alone" if ranks == 1 else "torchrun", ranks)
        words += [str(WORKER.with_name("timing_worker.py")), str(tmp_path)]
        launching.end(launching.begin(words, launching.environment()), words, 120)
        held += [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(ranks)]
        assert len((tmp_path / "latency.jsonl").read_text().splitlines()) == 15
    assert held[0] == held[1] == held[2] and min(held[0]["measured"]) > 0 and held[0]["numbers"]["nets"] == 12
