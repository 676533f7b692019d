"""Run a search from opening its ledgers to writing its results."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

from vitas_ds.config import Config
from vitas_ds.distributed.comm import Ranks
from vitas_ds.run.metrics import read_metrics
from vitas_ds.run.run_dir import RunDir, reused_ledger
from vitas_ds.run.tracker import Tracker
from vitas_ds.search.baselines import score_baselines
from vitas_ds.search.confirm import Confirmed, confirm, rescore
from vitas_ds.search.curve import extrapolate, mean_curve
from vitas_ds.search.feasible import budget as budgets
from vitas_ds.search.latency.calibration import LatencyModel, calibrate
from vitas_ds.search.latency.facts import describe_row
from vitas_ds.search.loop import run_loop
from vitas_ds.search.monitor import Monitor, with_progress
from vitas_ds.search.problem import SearchProblem
from vitas_ds.search.ranking import Result, fully_scored, ranked
from vitas_ds.search.results import write_baselines, write_results
from vitas_ds.search.runtime import open_runtime
from vitas_ds.search.scoring import racing
from vitas_ds.search.scoring.candidate import Candidate
from vitas_ds.search.scoring.evaluation import Evaluator
from vitas_ds.search.scoring.ledger import Ledger, Scoring, open_ledger
from vitas_ds.search.scoring.scorer import Scorer, split_rounds
from vitas_ds.search.separation import separation, top_count, warning
from vitas_ds.search.trials.check import Check
from vitas_ds.search.trials.finalists import FinalistsResult, check_inputs, run_finalists
from vitas_ds.search.trials.inputs import ScoringInputs


@dataclass(frozen=True)
class Session:
    """The inputs and outputs of a search, on one rank.

    Attributes:
        config: Configuration of the run.
        run: Folder of the run.
        ranks: Process group.
        tracker: Receives metrics and console lines.
        scoring: Settings that scores depend on, except the subnet and the number of images.
        scorer: Scores on ``search.images`` images.
        full_scorer: Scores on all search images.
        ledger: Scores of the search.
        race: Racing, if ``search.racing`` is set.
        timing: Predicted and measured latencies, if the search uses latency.
        inputs: Supernet and images.
    """

    config: Config
    run: RunDir
    ranks: Ranks
    tracker: Tracker
    scoring: Scoring
    scorer: Scorer
    full_scorer: Scorer
    ledger: Ledger
    race: racing.Race | None
    timing: LatencyModel | None
    inputs: ScoringInputs

    @property
    def problem(self) -> SearchProblem:
        """Space, budget and objectives."""
        costs = budgets.COSTS if self.timing is None else self.timing.costs
        seed = self.config.run.seed if self.config.search.seed is None else self.config.search.seed
        return SearchProblem(self.config.space, self.config.search, seed, costs)


def open_session(config: Config, run: RunDir, ranks: Ranks, tracker: Tracker, inputs: ScoringInputs) -> Session:
    """Open the ledgers, and load or measure the latencies. All ranks call it.

    Raises:
        UserError: A ledger belongs to another search, the budget cannot be met, or there are too few images.
    """
    cfg, scoring, timing, race = config.search, inputs.settings(config, ranks.device), None, None
    if cfg.finalists.count or cfg.check.nets:
        check_inputs(config, inputs, ranks.device)  # the finalists need them hours later
    scorer = inputs.make_scorer(config, ranks, cfg.images)
    if cfg.timed:
        timing = calibrate(
            config, run, run.search_latency, open_runtime(config, ranks.device), budgets.from_config(cfg)
        )
        tracker.print(timing.describe())
    reuse = reused_ledger(cfg.reuse) if cfg.reuse else None
    ledger = open_ledger(run.ledger, scoring, reuse, ranks.is_main)
    if cfg.racing:
        partial_scores = open_ledger(run.races, scoring, None, ranks.is_main)
        race = racing.Race(split_rounds(scorer), cfg.racing, partial_scores)
    full_scorer = inputs.make_scorer(config, ranks, 0)
    return Session(config, run, ranks, tracker, scoring, scorer, full_scorer, ledger, race, timing, inputs)


def run_search(session: Session) -> dict[str, Any]:
    """Search, train the finalists, score the baselines, and write the results. Return the headline numbers."""
    cfg, tracker = session.config.search, session.tracker
    tracker.print(f"search: {cfg.algorithm}, {cfg.generations} generations of {cfg.population}, "
                f"{session.scorer.images} search images")  # fmt: skip
    problem = session.problem
    guidance = _check_supernet(session, problem) if cfg.check.nets else {}
    figures = session.run.figures if session.ranks.is_main else None
    monitor = Monitor(tracker, problem, session.scorer.images, figures)
    result = _run_generations(session, problem, monitor)
    guidance |= _judge_scores(session, result)
    confirmed = _confirm(session, problem, result)
    full = Evaluator(session.full_scorer, session.ledger, session.full_scorer.images)
    best_first = ranked(fully_scored(confirmed.result.candidates))
    finalists = _train_finalists(session, best_first) if cfg.finalists.count else None
    if finalists is None:
        top = rescore(best_first[: cfg.top_k], full)
    else:
        others = [candidate for candidate in best_first if candidate.spec not in finalists.outcomes]
        top = list(full([*finalists.ranking, *others][: max(cfg.top_k, len(finalists.ranking))]))
    if cfg.baselines:
        _score_baselines(session, problem)
    if session.ranks.is_main:
        write_results(session.run, confirmed.result, top, confirmed.latencies, confirmed.dropped, finalists)
    numbers = _headline_numbers(session, result, confirmed, top[0]) | monitor.summary() | guidance
    count, best, trained = len(result.candidates), top[0], ""
    if finalists is not None:
        numbers["finalists"] = finalists.numbers
        numbers["best"] |= finalists.entry(best.spec)
        trained = f", accuracy {finalists.numbers['accuracy']:.4f} after {finalists.numbers['steps']:,} steps"
    tracker.print(f"search: {count} candidates, best {best.value:.4f} with {best.costs['macs']:,} MACs{trained}")
    if session.timing is not None:
        facts = describe_row(numbers["best"], session.timing.cache.setting)
        tracker.print(f"search: {'; '.join(f'{name}: {text}' for name, text in facts.items())}")
    return numbers


def _check_supernet(session: Session, problem: SearchProblem) -> dict[str, Any]:
    check = Check(
        session.config, session.run, session.ranks, session.tracker, session.inputs, session.full_scorer,
        problem.feasible,
    )  # fmt: skip
    return {"check": check()}


def _judge_scores(session: Session, result: Result) -> dict[str, Any]:
    """Warn if the scores cannot separate the best candidates. A front has no single best one."""
    cfg, run = session.config.search, session.run
    if cfg.algorithm == "nsga2":
        return {}
    found = separation(result.candidates, session.scorer, top_count(cfg.finalists.count, cfg.top_k))
    if found is None:
        return {}
    longer = None if cfg.checkpoint else extrapolate(*mean_curve(read_metrics(run)))
    advice = [] if longer is None else [longer.describe(session.config.supernet.epochs)]
    text = warning(found, bool(cfg.finalists.count), advice)
    if not found.enough:
        warnings.warn(text, stacklevel=2)
    return {"separation": found.to_dict() | {"warning": None if found.enough else text}}


def _train_finalists(session: Session, candidates: list[Candidate]) -> FinalistsResult:
    return run_finalists(session.config, session.run, session.ranks, session.tracker, session.inputs, candidates)


def _run_generations(session: Session, problem: SearchProblem, monitor: Monitor) -> Result:
    images, race = session.scorer.images, session.race
    if race is not None:
        rounds = [replace(r, score=monitor.timed(r.score, r.images)) for r in race.rounds]
        race = replace(race, rounds=rounds)
    evaluator = Evaluator(monitor.timed(session.scorer, images), session.ledger, images)
    result = run_loop(problem, evaluator, race, monitor.update)
    monitor.finish()
    return result


def _confirm(session: Session, problem: SearchProblem, result: Result) -> Confirmed:
    """Drop candidates that measure outside the budget; print a line for each."""
    if session.timing is None:
        return Confirmed(result)
    confirmed = confirm(result, problem, session.timing)
    for candidate in confirmed.dropped:
        predicted = budgets.format_cost("latency", candidate.costs["latency"])
        session.tracker.print(
            f"search: dropped a candidate with score {candidate.value:.4f}: predicted {predicted}, "
            f"measured {confirmed.latencies[candidate.spec.key()]['latency']:.4g} s"
        )
    return confirmed


def _score_baselines(session: Session, problem: SearchProblem) -> None:
    cfg, run = problem.cfg, session.run
    session.tracker.print(f"search: baselines, {cfg.population * cfg.generations} random candidates, "
                        f"{cfg.population} uniform ones")  # fmt: skip
    ledger = open_ledger(run.baseline_scores, session.scoring, run.ledger, session.ranks.is_main)
    score = with_progress(session.scorer, session.tracker, "baselines", cfg.population * (cfg.generations + 1))
    baselines = score_baselines(problem, Evaluator(score, ledger, session.scorer.images))
    if session.ranks.is_main:
        write_baselines(run, baselines)


def _headline_numbers(session: Session, result: Result, confirmed: Confirmed, best: Candidate) -> dict[str, Any]:
    score = {"score": best.value, "stderr": best.stderr, "spec": best.spec.to_dict()}
    latency = confirmed.latencies.get(best.spec.key(), {})
    numbers: dict[str, Any] = {
        "best": {**best.reported_costs(), **latency, **score},
        "scored": len(result.candidates),
        "front": len(confirmed.result.pareto),
    }
    if session.timing is not None:
        numbers["latency"] = session.timing.summary() | {"dropped": len(confirmed.dropped)}
    if session.race is not None and session.config.search.algorithm != "random":
        numbers["racing"] = racing.report(session.race, result.candidates)
        session.tracker.print(racing.format_report(numbers["racing"]))
    return numbers
