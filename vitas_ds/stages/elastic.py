"""``vitas elastic``: run all stages from a pretrained network to exported networks for several budgets.

Every stage is a process of its own, as if the user had started it, and may have a launcher. Finished stages return at
once, so starting the command again resumes it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType

from vitas_ds.config import Config
from vitas_ds.distributed import launcher
from vitas_ds.distributed.supervisor import die_with_parent
from vitas_ds.errors import Preempted, UserError
from vitas_ds.errors.exits import STATUS
from vitas_ds.recipe import load
from vitas_ds.run.run_dir import RunDir, run_of
from vitas_ds.run.summary import read_summary
from vitas_ds.search.feasible.several import feasible_sets
from vitas_ds.search.selector import ALL_BUDGETS, Source
from vitas_ds.stages import validate
from vitas_ds.stages.network_words import network_words

SHORT = {"model": "supernet.init", "weights": "supernet.weights"}  # words of this command, and the settings they set
LATER = ("data.", "evaluate.", "export.")  # settings that may follow once a network is trained, as export.onnx=true


@dataclass(frozen=True)
class Step:
    """A stage to run: its name, recipe or run folder, and settings.

    Attributes:
        launched: Whether it may have several ranks.
        redo: Whether it moves results of other settings aside and runs again.
    """

    stage: str
    recipe: str
    words: tuple[str, ...] = ()
    launched: bool = True
    redo: bool = False


def run(args: argparse.Namespace) -> int:
    """Run ``vitas elastic RECIPE [model=DIR] [section.key=value ...] [--launcher TEXT] [--direct] [--redo]``."""
    if launcher.read().world_size > 1:
        raise UserError("elastic starts the stages itself; give it the launcher: --launcher 'deepspeed --module'")
    words = long_words(args.overrides)
    words += network_words(args.recipe, words)
    config = load(args.recipe, words)
    check(config)
    steps = plan(config, args.recipe, words, args.direct, args.redo)
    check_retrain(steps)
    for number, step in enumerate(steps, 1):
        print(f"elastic: step {number} of {len(steps)}: {step.stage} {step.recipe}", flush=True)
        status = start_stage(step, args.launcher)
        if status:
            if status != STATUS[UserError]:  # the stage has printed its line
                print(
                    f"elastic: {step.stage} ended with exit status {status}; start the same command again to continue"
                )
            return status
    for line in results(run_of(config), config):
        print(line)
    return 0


def long_words(words: list[str]) -> list[str]:
    """Return settings with their full names: ``model`` and ``weights`` belong to the supernet."""
    pairs = (word.partition("=") for word in words)
    return [f"{SHORT.get(name, name)}={value}" for name, _, value in pairs]


def check(config: Config) -> None:
    """Find problems of all stages before the first one starts.

    Raises:
        UserError: The pretrained network or the budget is missing, or a budget is out of the range of the space.
    """
    if not config.space.elastic.on:
        raise UserError(
            "space.elastic: the recipe has no space of a pretrained network; use one of the recipes elastic_*"
        )
    if config.supernet.init == "scratch":
        raise UserError("supernet.init: scratch: no pretrained network; set model=DIR, or model=timm:NAME weights=FILE")
    if not config.search.budgets:
        raise UserError("search.budgets: empty; give one or more, such as 'search.budgets=[2.4G, 3.2G]'")
    feasible_sets(config.space, config.search)


def check_retrain(steps: list[Step]) -> None:
    """Check the settings of the stage retrain, which its own check would find after the search."""
    step = next(step for step in steps if step.stage == "retrain")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the stage gives them
        validate.check_training(load(step.recipe, list(step.words)), "retrain", 1)


def plan(config: Config, recipe: str, words: list[str], direct: bool, redo: bool = False) -> list[Step]:
    """Return the stages in order: supernet, search, then training, evaluation and export of every network.

    Only the stage retrain gets ``retrain.epochs=0``: the search trains its finalists with the settings of the recipe.
    """
    trained = ["retrain.spec=search:budgets", "retrain.init=supernet", *(["retrain.epochs=0"] if direct else [])]
    steps = [
        Step("train-supernet", recipe, tuple(words)),
        Step("search", recipe, tuple(words)),
        Step("retrain", recipe, (*words, *trained)),
    ]
    later = tuple(word for word in words if word.startswith(LATER))
    for network in network_runs(config):
        folder = str(network.path)
        steps += [Step("evaluate", folder, later)] if config.data.val or config.data.synthetic else []
        steps.append(Step("export", folder, later, launched=False))
    if redo:
        steps = [replace(step, redo=True) for step in steps]
    return [*steps, Step("report", str(run_of(config).path), launched=False)]


def network_runs(config: Config) -> list[RunDir]:
    """Return the run of the network of each budget, named as ``retrain`` does."""
    run, networks = run_of(config), Source("", ALL_BUDGETS).single(len(config.search.budgets))
    return [RunDir(run.path.with_name(run.name + suffix)) for suffix, _ in networks]


def start_stage(step: Step, launch: str | None) -> int:
    """Run a stage and return its exit status. It gets a request to stop too, and one if this process is killed."""
    prefix = shlex.split(launch) if launch and step.launched else [sys.executable, "-m"]
    scripts = str(Path(sys.executable).parent)  # an environment that is not active has its launchers there
    try:
        process = subprocess.Popen(
            [*prefix, "vitas_ds", step.stage, step.recipe, *step.words, *["--redo"] * step.redo],
            env=os.environ | {"PATH": os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)])},
            preexec_fn=partial(die_with_parent, signal.SIGTERM),  # noqa: PLW1509 - it saves
        )
    except OSError as error:
        raise UserError(f"--launcher {launch}: {prefix[0]} does not start ({error.strerror})") from None

    def forward(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:  # Ctrl-C reaches the stage as well: a second request would end it at once
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return STATUS[Preempted] if status in (-signal.SIGTERM, -signal.SIGINT) else 128 - status if status < 0 else status


def results(run: RunDir, config: Config) -> Iterator[str]:
    """Yield a line per network: budget, cost, scores and folder."""
    found = read_summary(run).get("search", {}).get("budgets") or []
    for row, network in zip(found, network_runs(config), strict=False):
        top1 = read_summary(network).get("evaluate", {}).get("top1")
        accuracy = "not evaluated (data.val is empty)" if top1 is None else f"top-1 {top1:.2%}"
        yield (
            f"elastic: {row['budget']}: {row['macs']:,} MACs, {row['params']:,} parameters, search score "
            f"{row['score']:.2%}, {accuracy}; {network.export}"
        )
