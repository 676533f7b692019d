"""Run a search from opening its ledgers to writing its results."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from vitas_ds.config import Config
from vitas_ds.distributed.comm import Ranks, from_main
from vitas_ds.distributed.groups import largest_divisor
from vitas_ds.elastic.greedy import seeds
from vitas_ds.run.metrics import read_metrics
from vitas_ds.run.run_dir import RunDir, reused_ledger
from vitas_ds.run.tracker import Tracker
from vitas_ds.search.baselines import score_baselines
from vitas_ds.search.confirm import Confirmed, confirm, rescore
from vitas_ds.search.corrected import CorrectedEvaluator
from vitas_ds.search.curve import extrapolate, mean_curve
from vitas_ds.search.feasible import budget as budgets
from vitas_ds.search.feasible.several import feasible_sets
from vitas_ds.search.latency.calibration import LatencyModel, calibrate
from vitas_ds.search.latency.facts import describe_row
from vitas_ds.search.loop import run_loop
from vitas_ds.search.monitor import Monitor, with_progress
from vitas_ds.search.outcome import Outcome, combine
from vitas_ds.search.problem import SearchProblem
from vitas_ds.search.ranking import Result, fully_scored, ranked
from vitas_ds.search.results import forget_baselines, write_baselines, write_results
from vitas_ds.search.runtime import open_runtime
from vitas_ds.search.scoring import racing
from vitas_ds.search.scoring.candidate import Candidate
from vitas_ds.search.scoring.evaluation import Evaluator, ScoreFunction
from vitas_ds.search.scoring.ledger import Ledger, Scoring, open_ledger
from vitas_ds.search.scoring.scorer import Scorer, split_rounds
from vitas_ds.search.separation import separation, top_count, warning
from vitas_ds.search.trials.check import Check
from vitas_ds.search.trials.check_result import headline, read_check
from vitas_ds.search.trials.correction import Correction, of_check
from vitas_ds.search.trials.finalists import FinalistsResult, Place, check_inputs, run_finalists
from vitas_ds.search.trials.inputs import ScoringInputs
from vitas_ds.search.workload import workload


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
        correction: Corrects all scores, if ``search.check.correct`` is set.
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
    correction: Correction | None = None

    @cached_property
    def problems(self) -> list[SearchProblem]:
        """Space, budget and objectives, one for each of ``search.budgets``."""
        costs = budgets.COSTS if self.timing is None else self.timing.costs
        seed = self.config.run.seed if self.config.search.seed is None else self.config.search.seed
        return [SearchProblem(self.config.space, one, seed, costs) for one in self.config.search.each_budget()]

    def evaluator(self, score: ScoreFunction, ledger: Ledger, images: int) -> Evaluator:
        """Return an evaluator that corrects the scores, if the search does."""
        return CorrectedEvaluator(score, ledger, images, self.correction)

    @property
    def limits(self) -> list[str]:
        """The budgets in their normal form; one empty text if ``search.budgets`` is empty."""
        return list(self.config.search.budgets) or [""]


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
            config, run, run.search_latency, open_runtime(config, ranks.device), budgets.from_config(cfg.covering())
        )
        tracker.print(timing.describe())
    reuse = reused_ledger(cfg.reuse) if cfg.reuse else None
    ledger = open_ledger(run.ledger, scoring, reuse, ranks.is_main)
    if reuse:
        tracker.print(_describe_reused(ledger, scorer.images, str(reuse)))
    if cfg.racing:
        partial_scores = open_ledger(run.races, scoring, None, ranks.is_main)
        race = racing.Race(split_rounds(scorer), cfg.racing, partial_scores)
    full_scorer = inputs.make_scorer(config, ranks, 0)
    return Session(config, run, ranks, tracker, scoring, scorer, full_scorer, ledger, race, timing, inputs)


def _describe_reused(ledger: Ledger, images: int, where: str) -> str:
    """Return how many scores of another search can be used; warn if some cannot."""
    found, known = len(ledger.reused), ledger.reused.count(images)
    if known < found:
        warnings.warn(
            f"search.from: {found - known:,} of {found:,} scores of {where} are not on {images} images and not used",
            stacklevel=3,
        )
    return f"search: {known:,} known scores of {where}"


def run_search(session: Session) -> dict[str, Any]:
    """Search, train the finalists, score the baselines, and write the results. Return the headline numbers."""
    cfg, tracker, problems = session.config.search, session.tracker, session.problems
    several = f" within each of {', '.join(cfg.budgets)}" if cfg.budgets else ""
    tracker.print(f"search: {cfg.algorithm}, {cfg.generations} generations of {cfg.population}{several}, "
                f"{session.scorer.images} search images")  # fmt: skip
    feasible_sets(session.config.space, cfg, problems[0].costs)  # an empty budget is an error before the first score
    guidance, session = _check_supernet(session, problems[len(problems) // 2])
    from_main(lambda: forget_baselines(session.run, cfg, session.correction))
    figures = session.run.figures if session.ranks.is_main else None
    monitor = Monitor(tracker, problems[0], session.scorer.images, figures, len(problems), _after_scoring(session))
    results = [_run_generations(session, _with_seeds(session, p), monitor, i) for i, p in enumerate(problems)]
    guidance |= _judge_scores(session, results)
    outcomes = _finish(session, results)
    combined = combine(outcomes, problems[0].objectives)
    if cfg.baselines:
        _score_baselines(session)
    if session.ranks.is_main:
        within = [(outcome.limit, outcome.top) for outcome in outcomes] if cfg.budgets else []
        confirmed = combined.confirmed
        write_results(
            session.run, confirmed.result, combined.top, confirmed.latencies, confirmed.dropped, combined.finalists,
            within, session.correction,
        )  # fmt: skip
    numbers = _headline_numbers(session, combined) | monitor.summary() | guidance
    if cfg.budgets:
        numbers["budgets"] = [{"budget": outcome.limit} | outcome.row() for outcome in outcomes]
    for outcome in outcomes:
        _print_outcome(session, outcome)
    return numbers


def _with_seeds(session: Session, problem: SearchProblem) -> SearchProblem:
    """Add networks built from the importance of the units to the first generation."""
    count, scores = round(problem.cfg.seeds * problem.cfg.population), session.inputs.importance
    if scores is None or not count or problem.cfg.algorithm == "random":
        return problem
    found = from_main(lambda: seeds(problem.space, scores, problem.feasible, count))
    session.tracker.print(f"search: first generation with {len(found)} of {problem.cfg.population} by importance")
    return replace(problem, seeds=found)


def _finish(session: Session, results: list[Result]) -> list[Outcome]:
    """Confirm the latencies, train the finalists, and score the best candidates on all search images."""
    cfg, found = session.config.search, list[Outcome]()
    full = session.evaluator(session.full_scorer, session.ledger, session.full_scorer.images)
    for limit, problem, result in zip(session.limits, session.problems, results, strict=True):
        confirmed = _confirm(session, problem, result)
        best_first, finalists = ranked(fully_scored(confirmed.result.candidates)), None
        if cfg.finalists.count:
            rows = found[-1].finalists.rows if found and found[-1].finalists else ()
            finalists = _train_finalists(session, best_first, Place(limit, rows, len(results) - 1 - len(found)))
        if finalists is None:
            top = rescore(best_first[: cfg.top_k], full)
        else:
            others = [candidate for candidate in best_first if candidate.spec not in finalists.outcomes]
            top = list(full([*finalists.ranking, *others][: max(cfg.top_k, len(finalists.ranking))]))
        found.append(Outcome(limit, result, confirmed, top, finalists))
    return found


def _print_outcome(session: Session, outcome: Outcome) -> None:
    best, trained = outcome.top[0], ""
    if outcome.finalists is not None:
        numbers = outcome.finalists.numbers
        trained = f", accuracy {numbers['accuracy']:.4f} after {numbers['steps']:,} steps"
    within = f" within {outcome.limit}" if outcome.limit else ""
    measured = "" if best.supernet_score is None else f" (corrected, by the supernet {best.supernet_score:.4f})"
    session.tracker.print(
        f"search: {len(outcome.result.candidates)} candidates{within}, best {best.value:.4f}{measured} with "
        f"{best.costs['macs']:,} MACs{trained}"
    )
    if session.timing is not None:
        facts = describe_row(outcome.row(), session.timing.cache.setting)
        session.tracker.print(f"search: {'; '.join(f'{name}: {text}' for name, text in facts.items())}")


def _check_supernet(session: Session, problem: SearchProblem) -> tuple[dict[str, Any], Session]:
    """Return the numbers of the check, and the session with the correction of the scores."""
    if not session.config.search.check.nets:
        return {}, session
    check = Check(
        session.config, session.run, session.ranks, session.tracker, session.inputs, session.full_scorer,
        problem.feasible,
    )  # fmt: skip
    result, correction = check(), None
    if session.config.search.check.correct:
        correction = from_main(lambda: of_check(result))
        if correction.slope <= 0:
            warnings.warn(
                f"search.check.correct: the correction does not use the scores of the supernet (weight "
                f"{correction.slope + 0:.2g}); train more networks, or longer ones",  # no -0
                stacklevel=2,
            )
    numbers = headline(result) | {"correct": correction is not None}
    return {"check": numbers}, replace(session, correction=correction)


def _after_scoring(session: Session) -> Callable[[float], float]:
    """Return the seconds of the finalists as a function of those of all scores.

    The trainings of the check are like theirs. Without them, a MAC takes as long as in a score.
    """
    parts, checked = workload(session.config, 1.0), session.config.search.check.nets
    if not (checked and session.ranks.is_main):  # only rank 0 prints it
        return lambda scoring: scoring * parts.finalists / parts.scoring
    at_once = largest_divisor(session.ranks.world_size, checked)
    seconds = sum(row["seconds"] for row in read_check(session.run)["nets"]) / at_once
    return lambda scoring: seconds * parts.finalists / parts.check


def _judge_scores(session: Session, results: list[Result]) -> dict[str, Any]:
    """Warn if the scores cannot separate the best candidates.

    A front has no single best one. The error of corrected scores is that of the correction, which the check shows.

    The numbers of several budgets are those of the least certain one.
    """
    cfg, run = session.config.search, session.run
    if cfg.algorithm == "nsga2" or session.correction is not None:
        return {}
    longer = None if cfg.checkpoint else extrapolate(*mean_curve(read_metrics(run)))
    advice = [] if longer is None else [longer.describe(session.config.supernet.epochs)]
    found = []
    for limit, result in zip(session.limits, results, strict=True):
        one = separation(result.candidates, session.scorer, top_count(cfg.finalists.count, cfg.top_k))
        if one is None:
            continue
        text = warning(one, bool(cfg.finalists.count), advice)
        text = f"search: {limit}: {text.removeprefix('search: ')}" if limit else text
        if not one.enough:
            warnings.warn(text, stacklevel=2)
        found.append((one.enough, one.probability, one.to_dict() | {"warning": None if one.enough else text}))
    return {"separation": min(found, key=lambda entry: entry[:2])[2]} if found else {}


def _train_finalists(session: Session, candidates: list[Candidate], place: Place) -> FinalistsResult:
    return run_finalists(
        session.config, session.run, session.ranks, session.tracker, session.inputs, candidates, place
    )  # fmt: skip


def _run_generations(session: Session, problem: SearchProblem, monitor: Monitor, index: int) -> Result:
    images, race = session.scorer.images, session.race
    if session.config.search.budgets:
        monitor.start_budget(problem, index)
    if race is not None:
        rounds = [replace(r, score=monitor.timed(r.score, r.images)) for r in race.rounds]
        race = replace(race, rounds=rounds)
    evaluator = session.evaluator(monitor.timed(session.scorer, images), session.ledger, images)
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


def _score_baselines(session: Session) -> None:
    cfg, run, problems = session.config.search, session.run, session.problems
    session.tracker.print(f"search: baselines, {cfg.candidates} random candidates, "
                f"{cfg.population} uniform ones")  # fmt: skip
    ledger = open_ledger(run.baseline_scores, session.scoring, run.ledger, session.ranks.is_main)
    total = cfg.population * (cfg.generations + 1) * len(problems)
    score = with_progress(session.scorer, session.tracker, "baselines", total)
    evaluator, baselines = session.evaluator(score, ledger, session.scorer.images), dict[str, list[Candidate]]()
    for limit, problem in zip(session.limits, problems, strict=True):
        found = score_baselines(problem, evaluator)
        baselines |= {f"{name}, {limit}" if limit else name: best for name, best in found.items()}
    if session.ranks.is_main:
        write_baselines(run, baselines)


def _headline_numbers(session: Session, outcome: Outcome) -> dict[str, Any]:
    candidates, confirmed = outcome.result.candidates, outcome.confirmed
    numbers: dict[str, Any] = {
        "best": outcome.row(),
        "scored": len(candidates),
        "front": len(confirmed.result.pareto),
    }
    if session.timing is not None:
        numbers["latency"] = session.timing.summary() | {"dropped": len(confirmed.dropped)}
    if session.race is not None and session.config.search.algorithm != "random":
        numbers["racing"] = racing.report(session.race, candidates)
        session.tracker.print(racing.format_report(numbers["racing"]))
    if outcome.finalists is not None:
        numbers["finalists"] = outcome.finalists.numbers
    return numbers
