"""The same search with one and with several ranks, interrupted or not: the same ledger, front and best candidate.

Reference: an uninterrupted search with one rank.
"""

import json
from pathlib import Path

import pytest

from tests.helpers import launching
from vitas_ds.run.run_dir import RunDir

WORKER = Path(__file__).with_name("search_worker.py")


def run(folder: Path, ranks: int, group_size: int = 1, kill_after: int = 0, racing: float = 0.0) -> None:
    command = launching.command("alone" if ranks == 1 else "torchrun", ranks)
    command += [str(WORKER), str(folder), str(group_size), str(kill_after), str(racing)]
    launching.wait_for_process(launching.start_process(command, launching.environment()), command, 120)


def results(folder: Path) -> tuple:
    """Return ledger, front and best candidate of a search, without durations."""

    def without_seconds(row):
        return {k: [without_seconds(x) for x in v] if k == "top" else v for k, v in row.items() if k != "seconds"}

    ledger = [without_seconds(json.loads(line)) for line in RunDir(folder).ledger.open()]
    front = [without_seconds(row) for row in json.loads(RunDir(folder).pareto.read_text())]
    return ledger, front, without_seconds(json.loads(RunDir(folder).best.read_text()))


@pytest.fixture(scope="module")
def single_rank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single_rank")
    run(folder, 1)
    return results(folder)


@pytest.mark.parametrize("group_size", [1, 0], ids=["candidates", "images"])
def test_two_ranks_have_the_results_of_one(tmp_path, single_rank, group_size):
    run(tmp_path, 2, group_size)
    assert results(tmp_path) == single_rank
    assert len(single_rank[0]) == 21 + 3 and len({row["score"] for row in single_rank[0]}) > 5


def test_a_killed_search_resumes_with_another_number_of_ranks(tmp_path, single_rank):
    run(tmp_path, 2, kill_after=10)
    ledger = RunDir(tmp_path).ledger
    assert len(ledger.read_text().splitlines()) == 10
    with ledger.open("a") as file:
        file.write('{"spec": {"image_si')
    run(tmp_path, 1)
    assert results(tmp_path) == single_rank


def test_a_killed_race_drops_the_same_candidates_again(tmp_path):
    """Killed in a round of the second generation with two ranks, resumed with one."""
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    run(unbroken, 1, racing=0.5)
    lines = RunDir(unbroken).races.read_text().splitlines()
    run(killed, 2, kill_after=len(lines) // 2, racing=0.5)
    assert len(RunDir(killed).races.read_text().splitlines()) == len(lines) // 2
    run(killed, 1, racing=0.5)
    assert results(killed) == results(unbroken)
    images = {row["images"] for row in results(unbroken)[0]}
    assert min(images) < 40 <= max(images), "no candidate was dropped"
    expected = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
    resumed = [json.loads(line) for line in RunDir(killed).races.open()]
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in resumed] == expected


def test_all_ranks_have_the_latencies_of_rank_0(tmp_path):
    """Rank 0 measures once. A second start with one rank measures nothing."""
    latencies = []
    for ranks in (2, 1):
        command = launching.command("alone" if ranks == 1 else "torchrun", ranks)
        command += [str(WORKER.with_name("timing_worker.py")), str(tmp_path)]
        launching.wait_for_process(launching.start_process(command, launching.environment()), command, 120)
        latencies += [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(ranks)]
        assert len((tmp_path / "latency.jsonl").read_text().splitlines()) == 15
    assert latencies[0] == latencies[1] == latencies[2]
    assert min(latencies[0]["measured"]) > 0 and latencies[0]["numbers"]["nets"] == 12
