"""What a search tells while it runs: how long it will take, what is best, and its pictures."""

import math
import time

from tests.helpers.searches import BUDGET, SMALL, likeness
from vitas_ds.arch.space import SearchSpace
from vitas_ds.config import Search
from vitas_ds.run.tracker import Tracker
from vitas_ds.search.loop import search
from vitas_ds.search.monitor import Watch, counted
from vitas_ds.search.scoring.ledger import Ledger, in_memory

CFG = Search(population=6, generations=5, macs=BUDGET)
NAP = 0.004  # seconds that a score takes


class Notes(Tracker):
    """Keeps what it is told."""

    def __init__(self):
        self.records, self.lines, self.tables, self.now, self.said = [], [], [], [], []

    def log(self, step, values, *, images=0, left=None):
        self.records.append((step, values, left))

    def tell(self, step, values, left):
        self.lines.append((step, left))
        self.now.append((step, values))

    def say(self, text):
        self.said.append(text)

    def table(self, name, columns, rows):
        self.tables.append(len(rows))


def slow(specs):
    for spec in specs:
        time.sleep(NAP)
        yield likeness(spec)


def watched(ledger: Ledger, cfg: Search = CFG, space: SearchSpace = SMALL, figures=None):
    notes = Notes()
    watch = Watch(notes, space, cfg, 10, figures)
    result = search(space, cfg, watch.timed(slow, 10), ledger, 0, watch.tell, 10)
    watch.finish()
    return notes, result


def test_time_left_counts_what_is_computed_alone():
    """After a resume scores that were known take no time; they say nothing of the others."""
    whole, _ = watched(in_memory())
    assert [step for step, _, _ in whole.records] == [6, 12, 18, 24, 30]
    assert [step for step, _ in whole.lines] == list(range(1, 31))
    assert whole.records[-1][2] == 0 and whole.lines[0][1] >= 29 * NAP
    ledger = in_memory()
    search(SMALL, CFG.model_copy(update={"generations": 3}), slow, ledger, 0, images=10)
    again, _ = watched(ledger)
    assert all(math.isnan(left) for _, _, left in again.records[:3])
    assert all(left >= (30 - step) * NAP for step, _, left in again.records[3:])
    assert [step for step, _ in again.lines] == list(range(19, 31)) and again.lines[0][1] >= 11 * NAP


def test_children_that_had_to_be_mended_are_told():
    shares = [values["feasible"] for _, values, _ in watched(in_memory())[0].records]
    assert shares[0] == 1 and 0 < min(shares) < 1
    wide = Search(population=6, generations=5)
    assert [values["feasible"] for _, values, _ in watched(in_memory(), wide)[0].records] == [1.0] * 5


def test_the_last_generation_is_drawn_though_the_space_ends_first(tmp_path):
    few = SearchSpace(**SMALL.model_dump() | {"depth": 1, "patch_sizes": (8,), "num_heads": (1,), "ratios": (0.5, 1.0)})
    notes, result = watched(in_memory(), Search(population=6, generations=50), few, tmp_path)
    assert len(result.entries) < 300 and notes.tables[-1] == len(result.entries)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["front.png", "progress.png", "survivors.png"]


def test_a_line_within_a_generation_is_of_that_generation():
    """With the best so far: the last generation's other figures are not this one's."""
    notes, _ = watched(in_memory())
    records = {step: values for step, values, _ in notes.records}
    for step, values in notes.now:
        before = (step - 1) // 6 * 6
        assert values["generation"] == before // 6 + 1
        assert values.get("best") == (records[before]["best"] if before else None)
        assert set(values) <= {"generation", "best"}


def test_only_what_is_on_disk_is_told():
    """Whoever reads a line and kills the search keeps what the line counts."""
    ledger, told = in_memory(), []

    class Looks(Notes):
        def tell(self, step, values, left):
            told.append((step, len(ledger.own)))

    search(SMALL, CFG, Watch(Looks(), SMALL, CFG, 10, None).timed(slow, 10), ledger, 0, images=10)
    assert told == [(step, step) for step in range(1, 31)]


def test_baselines_tell_how_far_they_are():
    notes = Notes()
    specs = [entry.spec for entry in watched(in_memory())[1].entries]
    score = counted(slow, notes, "baselines", 40, every=3 * NAP)
    assert [*score(specs[:10]), *score(specs[10:])] == [likeness(spec) for spec in specs]
    done = [int(line.split(", ")[1].split("/")[0]) for line in notes.said]
    assert done == sorted(set(done)) and 3 <= len(done) <= 10 and done[0] >= 3
    assert all(line.startswith("search: baselines, ") and "/40 nets  ETA 0:00" in line for line in notes.said)
