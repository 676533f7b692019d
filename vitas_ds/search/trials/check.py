"""How well does the supernet rank subnets? Train a few of them alone for a short time and compare (``search.check``).

The networks are random ones within the budget that cover patch sizes, widths and depths. They train like finalists from
random weights: with the hyperparameters of ``retrain``, on the training images of the supernet, one network per group
of ranks. Their accuracy on the search images is compared with their scores by the supernet on the same images.

search/check.json    result: tau, its interval, and a row per network
search/check/        states and results of the trainings; see finalists_store.py
"""
# n nets

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override  # a dependency of pydantic

from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.config import Config, Finalists
from vitas_ds.config.search import CORRECTED
from vitas_ds.distributed import comm, preemption
from vitas_ds.distributed.comm import Ranks
from vitas_ds.distributed.groups import Group, MeetingPoint, largest_divisor, split
from vitas_ds.errors import Preempted, UserError
from vitas_ds.run.files import write_json
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.tracker import Tracker
from vitas_ds.search.feasible.table import FeasibleSet
from vitas_ds.search.scoring.candidate import Score
from vitas_ds.search.scoring.scorer import Scorer
from vitas_ds.search.trials import plan
from vitas_ds.search.trials.agreement import agreement, tau
from vitas_ds.search.trials.check_plot import save_figure
from vitas_ds.search.trials.check_result import COLUMNS, describe, read_check, table_rows
from vitas_ds.search.trials.correction import held_out_tau
from vitas_ds.search.trials.finalists import configured
from vitas_ds.search.trials.finalists import settings as training_settings
from vitas_ds.search.trials.inputs import ScoringInputs
from vitas_ds.search.trials.plan import Rung
from vitas_ds.search.trials.spread import spread_subnets
from vitas_ds.search.trials.store import Outcome, Store, changes, name_of
from vitas_ds.search.trials.training import Trial, training_images
from vitas_ds.search.workload import workload


@dataclass(frozen=True)
class CheckDir(RunDir):
    """The run folder, with the files of the check in place of those of the finalists."""

    @property
    @override
    def finalist_states(self) -> Path:
        return self.check_states

    @property
    @override
    def finalists(self) -> Path:
        return self.check


@dataclass(frozen=True)
class Pace:
    """Work of this rank when it starts a network: MACs times steps.

    Attributes:
        start: Time of the start of the first network.
        before: Work done since then.
        left: Work left.
        later: Work of the rest of the search, as if it were trainings too.
    """

    start: float
    before: int
    left: int
    later: float = 0.0

    def seconds_left(self, done: int) -> float:
        """Return the remaining seconds of the search after ``done`` of the network's own work."""
        return (max(self.left - done, 0) + self.later) * (time.monotonic() - self.start) / (self.before + done)


@dataclass(frozen=True)
class Check:
    """Inputs and outputs of the check.

    Attributes:
        config: Configuration of the run.
        run: Folder of the run.
        ranks: The ranks of the job.
        tracker: Gets progress and result.
        inputs: Supernet and images.
        scorer: Scores with the supernet on all search images.
        feasible: The networks within the budget.
    """

    config: Config
    run: RunDir
    ranks: Ranks
    tracker: Tracker
    inputs: ScoringInputs
    scorer: Scorer
    feasible: FeasibleSet

    @property
    def _store(self) -> Store:
        return store(self.run)

    @property
    def _training(self) -> Config:
        """The configuration in which a network of the check is a finalist that trains from random weights."""
        finalists = Finalists(count=self.config.search.check.nets, steps=self.config.search.check.steps)
        search = self.config.search.model_copy(update={"finalists": finalists})
        return self.config.model_copy(update={"search": search})

    def __call__(self) -> dict[str, Any]:
        """Train, score and compare the networks, unless it is done. All ranks call it. Return the result.

        Raises:
            Preempted: A rank was asked to stop; the states are saved.
            UserError: The networks were trained with other settings, or the budget has too few.
        """
        specs, wanted = self._networks(), self._settings()
        saved = comm.from_main(lambda: read_check(self.run))
        if saved.get("settings") == wanted and [row["spec"] for row in saved["nets"]] == [s.to_dict() for s in specs]:
            self.tracker.print(f"search: check done already, {describe(saved, self.config.search.check.correct)}")
            return saved
        outcomes = self._train(specs)
        result = compare(specs, list(self.scorer(specs)), outcomes) | {"settings": wanted}
        if self.ranks.is_main:
            self._report(result)
            for spec in specs:
                self._store.remove(name_of(spec))
        return result

    def _networks(self) -> list[SubnetSpec]:
        wanted = self.config.search.check.nets
        specs = spread_subnets(self.feasible, wanted, self.config.run.seed)
        if len(specs) < wanted:
            raise UserError(
                f"search.check.nets: {wanted}, but the budget has only {len(specs)} networks; use fewer, or 0"
            )
        return specs

    def _settings(self) -> dict[str, Any]:
        """Return all settings behind the result, apart from the networks."""
        return self.inputs.settings(self.config, self.ranks.device) | self._alone()

    def _alone(self) -> dict[str, Any]:
        """Return the settings behind the trainings."""
        found = training_settings(self._training, self.inputs)
        return {name.replace("search.finalists.", "search.check."): value for name, value in found.items()}

    def _train(self, specs: list[SubnetSpec]) -> list[Outcome]:
        """Train the remaining networks. Return the results of all."""
        comm.from_main(lambda: self._store.open(self._alone()))
        results, left = comm.from_main(lambda: self._look_up(specs))
        macs = [spec_macs(spec) for spec in specs]
        self._print_cost(macs, len(results))
        meeting = MeetingPoint(self.ranks, self.config.run.timeout)
        group = split(self.ranks, largest_divisor(self.ranks.world_size, max(len(left), 1)), self.config.run.timeout)
        work = {i: macs[i] * steps for i, steps in left.items()}
        todo, dealt = list(work), plan.deal([float(value) for value in work.values()], group.count)
        stopped, found = self._train_own(group, specs, {todo[task]: work[todo[task]] for task in dealt[group.index]})
        if meeting.any(stopped, self._pass_on_stop_requests):
            raise Preempted("stopped, the networks of the check are saved; start it again to resume")
        for others in comm.gather(found):  # rank 0 may not see new files of other nodes yet
            results |= others
        return [results[i] for i in range(len(specs))]

    def _train_own(
        self, group: Group, specs: list[SubnetSpec], work: dict[int, int]
    ) -> tuple[bool, dict[int, Outcome]]:
        """Train the networks of this group. Return whether it was asked to stop, and on its first rank the results.

        Args:
            group: The group of this rank.
            specs: All networks.
            work: Work of the networks of this group, MACs times steps.
        """
        steps, start, found = self.config.search.check.steps, time.monotonic(), dict[int, Outcome]()
        before, left = 0, sum(work.values())
        later = self._later(specs) / group.count
        for i, own in work.items():
            if not self._trial(group, specs[i], i).run(
                steps, self._progress(i, specs[i], own, Pace(start, before, left, later))
            ):
                return True, found
            before, left = before + own, left - own
            if group.is_main:
                outcome = self._store.outcome(name_of(specs[i]), steps)
                assert outcome is not None, "written by this rank"
                found[i] = outcome
        return False, found

    def _later(self, specs: list[SubnetSpec]) -> float:
        """Return the work of the rest of the search, MACs times steps."""
        parts = workload(self.config, sum(map(spec_macs, specs)) / len(specs))
        return (parts.scoring + parts.finalists) / (plan.PASSES * self.config.retrain.batch_size)

    def _look_up(self, specs: list[SubnetSpec]) -> tuple[dict[int, Outcome], dict[int, int]]:
        """Return the known results, and the remaining steps of the other networks."""
        steps, known, left = self.config.search.check.steps, dict[int, Outcome](), dict[int, int]()
        for i, spec in enumerate(specs):
            outcome = self._store.outcome(name_of(spec), steps)
            if outcome is None:
                left[i] = steps - self._store.saved_step(name_of(spec))
            else:
                known[i] = outcome
        return known, left

    def _print_cost(self, macs: list[int], done: int) -> None:
        training, rungs = self.config.retrain, [Rung(len(macs), self.config.search.check.steps)]
        total = plan.training_macs(rungs, macs, training.batch_size)
        images = len(training_images(self.inputs)) + len(self.inputs.images)
        share = total / plan.retraining_macs(training, images, round(sum(macs) / len(macs)))
        known = f" ({done} done)" if done else ""
        cost = plan.describe(rungs, total, share).replace("candidates", "networks")
        self.tracker.print(f"search: check, {cost}{known}")

    def _trial(self, group: Group, spec: SubnetSpec, i: int) -> Trial:
        label = f"network {i + 1} of the check"
        return Trial(self._training, self.inputs, self._store, self.ranks, group, spec, label)

    def _progress(self, i: int, spec: SubnetSpec, work: int, pace: Pace) -> Callable[[int, float], None]:
        macs, steps = spec_macs(spec), self.config.search.check.steps

        def report(step: int, loss: float) -> None:
            left = pace.seconds_left(work - macs * (steps - step))
            self.tracker.progress(0, {"loss": loss, "check": i + 1, "check_step": step}, left)

        return report

    def _pass_on_stop_requests(self) -> None:
        if preemption.requested():
            self._store.ask_to_stop()

    def _report(self, result: dict[str, Any]) -> None:
        write_json(self.run.check, result)
        self.tracker.print(f"search: check, {describe(result, self.config.search.check.correct)}")
        flat = {"tau" if name == "value" else name: value for name, value in result["tau"].items()}
        self.tracker.evaluation(1, {f"check/{name}": value for name, value in flat.items()})
        self.tracker.table("search/check", COLUMNS, table_rows(result))
        self.tracker.image("search/check", save_figure(result, self.run.figures))


def store(run: RunDir) -> Store:
    """Return the states and results of the networks of a run's check."""
    return Store(CheckDir(run.path), "networks of the check")


def changed_settings(config: Config, run: RunDir) -> str:
    """Return the settings of the check of a run that are configured otherwise now; "" without saved settings."""
    saved, name = store(run).settings(), "search.check.steps"
    now = configured(config) | {name: config.search.check.steps}
    now = {key: value for key, value in now.items() if not key.startswith("search.finalists.")}
    return changes({key: saved.get(key) for key in now}, now) if saved else ""


def compare(specs: list[SubnetSpec], scores: list[Score], outcomes: list[Outcome]) -> dict[str, Any]:
    """Return ``check.json`` without the settings.

    It has Kendall's tau with its 95 % interval over networks, the same of the pairs with equal patch sizes (None if all
    are equal), that of corrected scores (None with too few networks), and a row per network.
    """
    truth, predicted = np.array([o.accuracy for o in outcomes]), np.array([[score.value for score in scores]])
    found = agreement(tau, predicted, truth)
    patch_sizes = np.array([spec.patch_size for spec in specs])
    within = agreement(partial(tau, like=patch_sizes), predicted, truth) if len(set(patch_sizes)) > 1 else None
    corrected = held_out_tau(specs, predicted[0], truth) if len(specs) >= CORRECTED else None
    rows = [
        {"score": score.value, "stderr": score.stderr, "accuracy": outcome.accuracy, "steps": outcome.step,
         "seconds": outcome.seconds, "macs": spec_macs(spec), "spec": spec.to_dict()}
        for spec, score, outcome in zip(specs, scores, outcomes, strict=True)
    ]  # fmt: skip
    return {
        "tau": asdict(found), "within_patch_size": within and asdict(within), "steps": outcomes[0].step,
        "corrected": corrected and asdict(corrected), "nets": rows,
    }  # fmt: skip
