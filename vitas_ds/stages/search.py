"""Stage search: evolutionary search within a budget; candidates are scored with the weights of the supernet."""

from __future__ import annotations

import os
import warnings

from vitas_ds.config import Config
from vitas_ds.data import contents
from vitas_ds.data.cache import decode_cached
from vitas_ds.data.loader import normalize
from vitas_ds.data.sources import ImageSet, hold_out
from vitas_ds.distributed import comm, watchdog
from vitas_ds.elastic.scores import Scores, read_scores
from vitas_ds.engine import precision
from vitas_ds.errors import Stale, UserError, shorten
from vitas_ds.errors.reading import read_bytes
from vitas_ds.run.files import read_json
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.start import find_run
from vitas_ds.run.summary import read_summary, update_summary
from vitas_ds.search.ended import has_ended
from vitas_ds.search.session import open_session, run_search
from vitas_ds.search.tables import BUDGET_COLUMNS, FRONT_COLUMNS, budget_rows, front_rows
from vitas_ds.search.trials import check
from vitas_ds.search.trials.correction import read_correction
from vitas_ds.search.trials.finalists import changed_settings
from vitas_ds.search.trials.inputs import ScoringInputs
from vitas_ds.search.trials.plan import count_trainings
from vitas_ds.search.trials.store import Store
from vitas_ds.stages.common import running, split_training_images
from vitas_ds.stages.forecast import after_search, print_search_estimate
from vitas_ds.stages.inputs import (
    check_inputs,
    check_training_images,
    record_inputs,
    train_if_present,
    weights_id,
)
from vitas_ds.stages.source_run import check_classes, supernet_run
from vitas_ds.stages.teaching import load_teacher
from vitas_ds.stages.trained_supernet import load_supernet, supernet_path
from vitas_ds.stages.validate import check_short_trainings


def run(config: Config, redo: bool = False) -> None:
    """Search the space for the best subnets within the budget; write ledger, front and best candidate.

    Args:
        config: The configuration.
        redo: Whether a finished search is outdated if its finalists were trained with other settings.
    """
    ranks = comm.init(config.run.device, config.run.timeout)
    run_dir = find_run(config)
    key = {"generations": config.search.generations, "top_k": config.search.top_k}
    done = _is_done(config, run_dir)
    note = comm.from_main(lambda: _compare(config, run_dir, done, redo))
    if done:
        comm.from_main(lambda: _check(config, run_dir))
        if ranks.is_main:
            previous = read_summary(run_dir)["search"]
            print(f"search: done already, {previous['scored']} candidates scored, best {previous['best']['score']:.4f}"
                  + note)  # fmt: skip
        return
    check_short_trainings(config)
    precision.set_backends(config.engine)
    supernet, digest = load_supernet(config, run_dir)
    images = search_images(config, run_dir)
    training, teacher = None, None
    if config.search.finalists.count or config.search.check.nets:
        training = split_training_images(config)[0]
        teacher = load_teacher(config, "retrain", training, ranks.device)
    print_search_estimate(config, ranks, sum(p.numel() for p in supernet.parameters()), len(images))
    candidates = config.search.candidates
    total = candidates + count_trainings(config.search.finalists, candidates)
    total *= max(len(config.search.budgets), 1)
    with running(config, "search", ranks, total, after_search(config, run_dir)) as tracker:
        comm.from_main(lambda: _check(config, run_dir, locked=True))
        watchdog.at("decoding the search images")
        pixels = decode_cached(images, config.data, config.space.image_size, ranks, run_dir.search)
        inputs = ScoringInputs(
            supernet, digest, images, pixels, lambda x: normalize(x, config.data), training, teacher,
            comm.from_main(lambda: contents.digest(images)), comm.from_main(lambda: _importance(config, run_dir)),
        )  # fmt: skip
        numbers = run_search(open_session(config, run_dir, ranks, tracker, inputs))
        tracker.complete()  # a small budget may have fewer networks than planned
        tracker.summary(numbers)
        tracker.artifact("best-spec", "spec", run_dir.best)
        if ranks.is_main:
            tracker.table("search/pareto", FRONT_COLUMNS, front_rows(read_json(run_dir.pareto, [])))
            if "budgets" in numbers:
                tracker.table("search/budgets", BUDGET_COLUMNS, budget_rows(numbers["budgets"]))
    if ranks.is_main:
        before = read_summary(run_dir).get("search", {})
        without = {name: None for name in ("finalists", "budgets", "check", "separation") if name in before}
        update_summary(run_dir, "search", without | key | numbers)


def _check(config: Config, run_dir: RunDir, locked: bool = False) -> None:
    """Compare the inputs with those of earlier scores; once the run is locked, record them."""
    images = train_if_present(config)
    if locked and images is not None:
        check_training_images(config, run_dir, images)
    split = None if images is None else hold_out(images, config.data.search_per_class, config.run.seed)
    sets = {"search": split[1] if split else None}
    if config.search.finalists.count or config.search.check.nets:
        sets["train"] = split[0] if split else None
    digests = {"weights": weights_id(supernet_path(config, run_dir))}
    (record_inputs if locked else check_inputs)(run_dir, "search", run_dir.search, sets, digests)


def _importance(config: Config, run_dir: RunDir) -> Scores | None:
    """Return the importance of the units of the pretrained network from which the supernet started, for the seeds."""
    if not (config.space.elastic.on and config.search.seeds):
        return None
    path = supernet_run(config).importance
    if path.is_file():
        return read_scores(path)
    warnings.warn(f"search.seeds is ignored: {path} does not exist; all first candidates are random", stacklevel=2)
    return None


def _compare(config: Config, run_dir: RunDir, done: bool, redo: bool) -> str:
    """Compare the settings with those of a search with results. Return a note for a finished one.

    Raises:
        Stale: It would lose results, or an unfinished search has finalists of other settings, or ``redo``.
    """
    before, now = read_summary(run_dir).get("search", {}).get("generations") or 0, config.search.generations
    if run_dir.best.exists() and now < before:
        raise Stale(
            run_dir.path, "search", f"search.generations {before} -> {now}",
            f"{run_dir.path}: has searched {before} generations, this start has search.generations={now}; to keep its "
            "settings, give its folder instead of a recipe; or set another run.name",
        )  # fmt: skip
    changed = changed_settings(config, run_dir) if config.search.finalists.count else ""
    stale = Store(run_dir).stale(changed) if changed else None
    if stale is None and config.search.check.nets and (changed := check.changed_settings(config, run_dir)):
        stale = check.store(run_dir).stale(changed)
    if stale is None:
        return ""
    if done and not redo:
        return f"; {stale.reason}: --redo searches again"
    raise stale


def _is_done(config: Config, run_dir: RunDir) -> bool:
    """Return whether the search has ended with these settings, including finalists and baselines if requested."""
    previous = read_summary(run_dir).get("search", {})
    corrected = config.search.check.correct == (read_correction(run_dir) is not None)
    baselines_done = run_dir.baselines.exists() or not config.search.baselines
    latency = previous.get("latency")  # a table has no further batch sizes
    sizes = set() if latency is None or config.search.latency_table else set(config.search.latency_also)
    latency_done = sizes.issubset((latency or {}).get("also", ()))
    complete = run_dir.best.exists() and corrected and baselines_done and latency_done
    return complete and has_ended(config.search, previous)


def search_images(config: Config, run_dir: RunDir) -> ImageSet:
    """Return the search images, held out exactly as the stage train-supernet did.

    Raises:
        UserError: An image is not in the list that train-supernet wrote, and the supernet may have learned it.
    """
    _, images = split_training_images(config)
    check_classes(config, images)
    weights = supernet_path(config, run_dir)
    lists = (parent / run_dir.search_images.name for parent in weights.absolute().parents[:4])
    path = next((path for path in lists if path.is_file()), None)
    if path is None:
        warnings.warn(
            f"{weights}: no {run_dir.search_images.name} in the folders above it lists the images held out of its "
            "training; the search may score on images that the supernet has learned", stacklevel=2,
        )  # fmt: skip
        return images
    held_out = set(os.fsdecode(read_bytes(path)).split("\n"))
    learned = [name for name in images.paths if not held_out.issuperset(name.split("\n"))]
    if learned:
        raise UserError(
            f"data.train: {len(learned)} of {len(images)} search images, such as {shorten(learned[0], 60)}, are not in "
            f"{path}: the supernet may have learned them; restore files, data.exclude, data.search_per_class and "
            "run.seed of its training, or train again"
        )
    return images
