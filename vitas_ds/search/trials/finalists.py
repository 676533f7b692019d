"""Train the best candidates of a search and rank them by their own accuracy: successive halving (arXiv 1502.07943).

Scores with the weights of the supernet rank candidates only roughly. All finalists train for the first rung on the
training images of the supernet, with the hyperparameters of ``retrain``; those with the best accuracy on the
search images train on to the next rung. Groups of ranks train one candidate after the other, without waiting for each
other within a rung.
"""
# K candidates

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.config import Config
from vitas_ds.config.absolute import with_absolute_paths
from vitas_ds.data.sampler import steps_per_epoch
from vitas_ds.data.sources import fingerprint
from vitas_ds.distributed import comm, preemption
from vitas_ds.distributed.comm import Ranks
from vitas_ds.distributed.groups import Group, MeetingPoint, largest_divisor, split
from vitas_ds.engine import precision
from vitas_ds.errors import Preempted, UserError
from vitas_ds.run.compatibility import FREE
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.tracker import Tracker
from vitas_ds.search.scoring.candidate import Candidate
from vitas_ds.search.trials import plan
from vitas_ds.search.trials.finalists_plot import COLUMNS, save_figure, table_rows
from vitas_ds.search.trials.inputs import ScoringInputs
from vitas_ds.search.trials.plan import Rung
from vitas_ds.search.trials.progress import ProgressReport
from vitas_ds.search.trials.rows import Row, order_of
from vitas_ds.search.trials.store import Outcome, Store, changes, name_of
from vitas_ds.search.trials.training import Trial, training_images

# fields of retrain without effect on finalists
UNUSED = FREE["retrain"] | {
    "spec", "init", "init_weights", "resume_from", "teacher", "distill_token", "freeze", "layer_decay", "eval_images",
}  # fmt: skip


@dataclass(frozen=True)
class FinalistsResult:
    """Result of the trainings.

    Attributes:
        ranking: The finalists, best first: by rung, then by accuracy, loss and MACs.
        outcomes: Last result of each finalist.
        numbers: Headline numbers.
        rows: Lines of ``finalists.jsonl``, those of earlier budgets included.
    """

    ranking: list[Candidate]
    outcomes: dict[SubnetSpec, Outcome]
    numbers: dict[str, Any]
    rows: tuple[Row, ...] = ()

    def entry(self, spec: SubnetSpec) -> Row:
        """Return the entry ``finalist`` of a candidate in ``best.json``; empty if it was not trained."""
        outcome = self.outcomes.get(spec)
        if outcome is None:
            return {}
        entry = {"accuracy": outcome.accuracy, "stderr": outcome.stderr, "steps": outcome.step}
        return {"finalist": entry | ({"side": outcome.side} if outcome.side else {})}


@dataclass(frozen=True)
class Place:
    """Place of the finalists of one of several budgets among all finalists.

    Attributes:
        limit: The budget; empty if there is only one.
        earlier: Lines of ``finalists.jsonl`` of the budgets before it.
        after: Number of budgets after it.
    """

    limit: str = ""
    earlier: tuple[Row, ...] = ()
    after: int = 0

    @property
    def first(self) -> int:
        """Number of finalists of the budgets before it."""
        return max((row["candidate"] for row in self.earlier), default=0)


def check_inputs(config: Config, inputs: ScoringInputs, device: torch.device) -> None:
    """Check before the search what trainings in it need.

    Raises:
        UserError: There are fewer training images than a batch, or the device does not support the precision.
    """
    precision.check(config.engine, device)
    images, batch_size = len(training_images(inputs)), config.retrain.batch_size
    if not steps_per_epoch(images, config.retrain.augment.aug_repeats, batch_size):
        raise UserError(
            f"retrain.batch_size: {batch_size} is more than the {images} training images without the search images, "
            "on which finalists train"
        )


def configured(config: Config) -> dict[str, Any]:
    """Return the part of ``settings`` from the configuration."""
    found: dict[str, Any] = {f"search.finalists.{n}": getattr(config.search.finalists, n) for n in ("steps", "init")}
    training = config.retrain.model_dump(mode="json")
    found |= {f"retrain.{name}": value for name, value in training.items() if name not in UNUSED}
    return found | {"engine.precision": config.engine.precision, "run.seed": config.run.seed}


def changed_settings(config: Config, run: RunDir) -> str:
    """Return the settings of the finalists of a run that are configured otherwise now; "" without saved settings.

    A teacher has changed if it is another folder.
    """
    saved, teacher = Store(run).settings(), "retrain.teacher.model"
    if not saved:
        return ""
    now = configured(config) | {teacher: with_absolute_paths(config).retrain.teacher.model}
    before = {name: saved.get(name) for name in now} | {teacher: (saved.get("retrain.teacher") or {}).get("model")}
    return changes(before, now)


def settings(config: Config, inputs: ScoringInputs) -> dict[str, Any]:
    """Return the settings that results of finalists depend on, by name."""
    found = configured(config)
    found["training images"] = fingerprint(training_images(inputs))
    found["search images"] = fingerprint(inputs.images)
    if config.search.finalists.init == "supernet":
        found["supernet"] = inputs.digest
    if inputs.teacher is not None:
        teacher = with_absolute_paths(config).retrain.teacher.model_dump(mode="json")
        found["retrain.teacher"] = teacher | {"digest": inputs.teacher.digest}
    return found


def run_finalists(
    config: Config, run: RunDir, ranks: Ranks, tracker: Tracker, inputs: ScoringInputs, candidates: list[Candidate],
    place: Place = Place(),
) -> FinalistsResult:  # fmt: skip
    """Train candidates by successive halving. All ranks must call this.

    Args:
        config: Configuration of the run.
        run: Folder of the run.
        ranks: The ranks of the job.
        tracker: Gets progress and results.
        inputs: Supernet and images.
        candidates: Distinct candidates, best score first.
        place: Their place among the finalists of several budgets.

    Raises:
        Preempted: A rank was asked to stop; the states are saved.
        UserError: The finalists were trained with other settings.
    """
    store, wanted = Store(run), settings(config, inputs)
    comm.from_main(lambda: store.open(wanted))
    rungs = plan.make_rungs(config.search.finalists, len(candidates))
    candidates = candidates[: rungs[0].nets]
    halving = Halving(config, ranks, tracker, inputs, store, rungs, candidates, place, [*place.earlier])
    return halving.run()


@dataclass
class Halving:
    """Successive halving of candidates.

    Attributes:
        config: Configuration of the run.
        ranks: The ranks of the job.
        tracker: Gets progress and results.
        inputs: Supernet and images.
        store: Files.
        rungs: The rungs.
        candidates: The finalists, best score first.
        place: Their place among the finalists of several budgets.
        rows: Lines of ``finalists.jsonl`` so far.
    """

    config: Config
    ranks: Ranks
    tracker: Tracker
    inputs: ScoringInputs
    store: Store
    rungs: list[Rung]
    candidates: list[Candidate]
    place: Place = Place()
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        macs = {i: candidate.costs["macs"] for i, candidate in enumerate(self.candidates)}
        self._report = ProgressReport(
            self.config.search, self.tracker, self.rungs, macs, self.ranks.world_size, self.place.first, len(self.rows),
            self.place.after,
        )  # fmt: skip
        self._meeting = MeetingPoint(self.ranks, self.config.run.timeout)
        self._groups: dict[int, Group] = {}

    def run(self) -> FinalistsResult:
        """Train all rungs, and return the ranking."""
        total, share = self._cost()
        within = f" within {self.place.limit}" if self.place.limit else ""
        self.tracker.print(f"search: finalists{within}, {plan.describe(self.rungs, total, share)}")
        alive, ranking = list(range(len(self.candidates))), list[int]()
        outcomes: dict[int, Outcome] = {}
        for number in range(len(self.rungs)):
            outcomes |= self._train_rung(number, alive)
            alive, dropped = self._finish_rung(number, {i: outcomes[i] for i in alive})
            ranking = dropped + ranking
        return self._result(alive + ranking, outcomes, total, share)

    def _cost(self) -> tuple[float, float]:
        """Return the MACs of all trainings, and their number relative to one retraining of the best candidate."""
        training, macs = self.config.retrain, [candidate.costs["macs"] for candidate in self.candidates]
        total = plan.training_macs(self.rungs, macs, training.batch_size)
        images = len(training_images(self.inputs)) + len(self.inputs.images)
        return total, total / plan.retraining_macs(training, images, macs[0])

    def _train_rung(self, number: int, alive: list[int]) -> dict[int, Outcome]:
        """Train the candidates ``alive`` to the end of a rung. Return their results.

        Raises:
            Preempted: A rank was asked to stop.
        """
        steps = self.rungs[number].steps
        group = self._group(largest_divisor(self.ranks.world_size, len(alive)))
        results, remaining = comm.from_main(partial(self._look_up, alive, steps))
        costs = [float(left * self.candidates[i].costs["macs"]) for i, left in remaining.items()]
        self._report.start_rung(number, remaining, group)
        own: dict[int, Outcome] = {}
        stopped = False
        for task in plan.deal(costs, group.count)[group.index]:
            i = list(remaining)[task]
            spec, label = self.candidates[i].spec, f"finalist {self.place.first + i + 1}"
            trial = Trial(self.config, self.inputs, self.store, self.ranks, group, spec, label)
            stopped = not trial.run(steps, self._report.of(i, steps - remaining[i]))
            if stopped:
                break
            if group.is_main:
                own[i] = self._outcome(i, steps)
        if self._meeting.any(stopped, self._pass_on_stop_requests):
            raise Preempted("stopped, the finalists are saved; start it again to resume")
        for others in comm.gather(own):  # rank 0 may not see new files of other nodes yet
            results |= others
        return results

    def _look_up(self, alive: list[int], steps: int) -> tuple[dict[int, Outcome], dict[int, int]]:
        """Return the known results at a step, and the remaining steps of the other candidates."""
        known, left = {}, {}
        for i in alive:
            name = name_of(self.candidates[i].spec)
            outcome = self.store.outcome(name, steps)
            if outcome is None:
                saved = self.store.saved_step(name)
                left[i] = steps - (saved if saved <= steps else 0)
            else:
                known[i] = outcome
        return known, left

    def _outcome(self, i: int, steps: int) -> Outcome:
        outcome = self.store.outcome(name_of(self.candidates[i].spec), steps)
        assert outcome is not None, "written by this rank"
        return outcome

    def _group(self, count: int) -> Group:
        if count not in self._groups:
            self._groups[count] = split(self.ranks, count, self.config.run.timeout)
        return self._groups[count]

    def _pass_on_stop_requests(self) -> None:
        if preemption.requested():
            self.store.ask_to_stop()

    def _finish_rung(self, number: int, results: dict[int, Outcome]) -> tuple[list[int], list[int]]:
        """Write results. Return the candidates of the next rung and those that drop out, each best first."""
        last = number == len(self.rungs) - 1
        kept = 1 if last else self.rungs[number + 1].nets
        rows = sorted((self._row(i, number, outcome) for i, outcome in results.items()), key=order_of)
        for place, row in enumerate(rows):
            row |= {"goes_on": place < kept and not last, "wins": place < kept and last}
        self.rows += rows
        ordered = [row["candidate"] - 1 - self.place.first for row in rows]
        if self.ranks.is_main:
            self.store.write_rows(self.rows)
            for i in ordered[kept:]:
                self.store.remove(name_of(self.candidates[i].spec))
            if last and not self.place.after:
                self.store.remove_all()
            self.tracker.image("search/finalists", save_figure(self.rows, self.store.run.figures))
            self.tracker.table("search/finalists", COLUMNS, table_rows(self.rows))
        self._report.finish_rung(number, rows)
        return ordered[:kept], ordered[kept:]

    def _row(self, i: int, number: int, outcome: Outcome) -> Row:
        candidate = self.candidates[i]
        row: Row = {"candidate": self.place.first + i + 1, "rung": number + 1, "step": outcome.step}
        row |= {"budget": self.place.limit} if self.place.limit else {}
        row["accuracy"] = outcome.accuracy
        row |= {name: getattr(outcome, name) for name in ("stderr", "loss", "seconds", "skipped", "side")}
        return row | {"score": candidate.value, "macs": candidate.costs["macs"], "spec": candidate.spec.to_dict()}

    def _result(self, ranking: list[int], outcomes: dict[int, Outcome], total: float, share: float) -> FinalistsResult:
        best = outcomes[ranking[0]]
        numbers = self.config.search.finalists.model_dump() | {
            "candidates": len(self.candidates), "rungs": len(self.rungs), "accuracy": best.accuracy,
            "stderr": best.stderr, "winner": self.place.first + ranking[0] + 1, "macs": total, "retrainings": share,
            "seconds": round(sum(outcome.seconds for outcome in outcomes.values()), 1),
        }  # fmt: skip
        by_spec = {self.candidates[i].spec: outcome for i, outcome in outcomes.items()}
        return FinalistsResult([self.candidates[i] for i in ranking], by_spec, numbers, tuple(self.rows))
