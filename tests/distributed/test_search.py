"""The same search on one rank and on several, broken off and not: the same ledger, front and best net."""

import json
from pathlib import Path

import pytest

from tests.helpers import launching
from vitas_ds.run.run_dir import RunDir

WORKER = Path(__file__).with_name("search_worker.py")


def run(folder: Path, ranks: int, members: int = 1, kill_after: int = 0, racing: float = 0.0) -> None:
    words = launching.command("alone" if ranks == 1 else "torchrun", ranks)
    words += [str(WORKER), str(folder), str(members), str(kill_after), str(racing)]
    launching.wait_for_process(launching.start_process(words, launching.environment()), words, 120)


def found(folder: Path) -> tuple:
    """All that a search leaves, but for the time it took."""

    def timeless(row):
        return {k: [timeless(x) for x in v] if k == "top" else v for k, v in row.items() if k != "seconds"}

    ledger = [timeless(json.loads(line)) for line in RunDir(folder).ledger.open()]
    front = [timeless(row) for row in json.loads(RunDir(folder).pareto.read_text())]
    return ledger, front, timeless(json.loads(RunDir(folder).best.read_text()))


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


def test_a_broken_race_drops_the_same_nets_again(tmp_path, alone):
    """Broken off in a look of the second generation, by two ranks; gone on with by one."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(whole, 1, racing=0.5)
    looks = RunDir(whole).races.read_text().splitlines()
    run(broken, 2, kill_after=len(looks) // 2, racing=0.5)
    assert len(RunDir(broken).races.read_text().splitlines()) == len(looks) // 2
    run(broken, 1, racing=0.5)
    assert found(broken) == found(whole)
    images = {entry["images"] for entry in found(whole)[0]}
    assert min(images) < 40 <= max(images), "no net was dropped"
    looked = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in looks]
    again = [json.loads(line) for line in RunDir(broken).races.open()]
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in again] == looked


def test_all_ranks_hold_rank_0s_latencies(tmp_path):
    """Measured once, by rank 0; a second start, on one rank, measures nothing."""
    held = []
    for ranks in (2, 1):
        words = launching.command("alone" if ranks == 1 else "torchrun", ranks)
        words += [str(WORKER.with_name("timing_worker.py")), str(tmp_path)]
        launching.wait_for_process(launching.start_process(words, launching.environment()), words, 120)
        held += [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(ranks)]
        assert len((tmp_path / "latency.jsonl").read_text().splitlines()) == 15
    assert held[0] == held[1] == held[2] and min(held[0]["measured"]) > 0 and held[0]["numbers"]["nets"] == 12
