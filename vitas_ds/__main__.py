"""The command line: one subcommand per stage and tool.

Each command imports its own libraries, which keeps ``--help`` fast. Importing this module does not import torch.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NoReturn, TextIO

from vitas_ds.commands import COMMANDS, STAGES, filled
from vitas_ds.distributed import console, launcher, preemption, supervisor
from vitas_ds.errors import RankLost, UserError, shorten
from vitas_ds.errors.exits import outcome


class Parser(argparse.ArgumentParser):
    """A parser whose error is a short line."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the problem, and exit with status 2."""
        super().error(shorten(message))


def parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    top = Parser(
        prog="vitas", description="Vision transformer architecture search: supernet, search, retrain.",
        epilog="Start a stage again with the same run to resume it. Recipes: vitas_ds/recipes/. "
        "Help on a command: vitas COMMAND --help",
    )  # fmt: skip
    top.add_argument("--version", action="store_true", help="print the version")
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=command.purpose, description=f"{command.purpose[0].upper()}{command.purpose[1:]}.",
            epilog=f"example:\n  {command.examples}\n\noutput:\n  {command.output}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        for argument, options in command.arguments:
            free = options.keys().isdisjoint({"type", "action"})
            subparser.add_argument(argument, **(options | {"type": filled} if free else options))
    return top


def parse(top: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """Parse the arguments. argparse itself does not accept further overrides after an option; this does."""
    args, rest = top.parse_known_args(words)
    unknown = [word for word in rest if word.startswith("-") or "=" not in word]
    if unknown or (rest and not hasattr(args, "overrides")):
        top.error(f"unrecognized arguments: {' '.join(unknown or rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args


def run_stage(args: argparse.Namespace) -> int:
    """Run one stage of a recipe."""
    from vitas_ds.stages import validate
    from vitas_ds.stages.elastic_space import load_with_order

    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # a lost rank is one line, not a stack trace per rank
    config = load_with_order(args.recipe, args.overrides)
    check = partial(validate.check, config, args.command, launcher.read().world_size)
    check()
    stage = import_module(f"vitas_ds.stages.{args.command.replace('-', '_')}")
    if getattr(args, "replay", None) is not None:
        stage.replay_step(config, args.replay)
        return 0
    more = {"export": ("push_to_hub", "private"), "search": ("redo",)}.get(args.command, ())
    run = partial(stage.run, config, *(getattr(args, name) for name in more))
    if args.redo:
        from vitas_ds.stages.redo import redoing

        redoing(args.command, run, partial(check, again=True))
    else:
        run()
    import_module("vitas_ds.distributed.comm").close()  # threads of open process groups may abort a process that exits
    return 0


def run_report(args: argparse.Namespace) -> int:
    """Report one run, or compare several: arguments without "=" name the others."""
    from vitas_ds.reports.comparison import MAX_RUNS
    from vitas_ds.stages import report

    overrides = [word for word in args.overrides if "=" in word]
    more = [word for word in args.overrides if "=" not in word]
    if len(more) >= MAX_RUNS or (more and args.to_wandb):
        reason = "--to-wandb takes one run" if args.to_wandb else f"report compares {MAX_RUNS} runs at most"
        raise UserError(f"{more[-1]}: {reason}")
    if args.to_wandb and "tracking.wandb=disabled" in overrides:
        raise UserError("tracking.wandb=disabled: contradicts --to-wandb")
    configs = [report.find(name, overrides) for name in (args.recipe, *more)]
    if more:
        report.compare(*configs)
    else:
        report.run(configs[0], args.to_wandb)
    return 0


def run_config(args: argparse.Namespace) -> int:
    """Print the resolved configuration as YAML; with ``--world-size``, memory estimates as comments.

    With ``--schema``, print the JSON schema of recipes instead.
    """
    from vitas_ds.config import dump, json_schema
    from vitas_ds.recipe import load
    from vitas_ds.stages import validate

    if args.schema:
        print(json_schema(), end="")
        return 0
    if args.recipe is None:
        raise UserError("give a recipe or the folder of a run, or --schema")
    if args.world_size is not None and args.world_size < 1:
        raise UserError(f"--world-size: must be 1 or more (given: {args.world_size})")
    config = load(args.recipe, args.overrides)
    validate.check(config, "config", args.world_size or 1)
    comments = []
    if args.world_size is not None:
        from vitas_ds.engine import memory

        comments = [f"# {line}".rstrip() for line in memory.report_lines(config, args.world_size)]
    print(dump(config) + "".join(f"{line}\n" for line in comments), end="")
    return 0


def run_elastic(args: argparse.Namespace) -> int:
    """Run all stages from a pretrained network to exported networks."""
    from vitas_ds.stages import elastic

    return elastic.run(args)


def _check_overwriting(args: argparse.Namespace) -> None:
    """Refuse to replace existing files without ``--force``. Commands without this option do not replace files."""
    writes_folder = args.command in ("import", "reorder")
    if writes_folder:
        from vitas_ds.export.folder import check_replaceable  # imports torch

        check_replaceable(args.out)
    for option in ("out", "write", "plot"):
        path = getattr(args, option, None)
        if path is None or getattr(args, "force", True):
            continue
        if os.path.isfile(path) or (writes_folder and os.path.isdir(path) and any(os.scandir(path))):
            raise UserError(f"--{option} {path}: exists already; choose another name, or replace it with --force")


def run_tool(args: argparse.Namespace) -> int:
    """Run ``vitas_ds/tools/NAME.py``, whose ``run`` takes the parsed arguments."""
    _check_overwriting(args)
    module = {"import": "import_checkpoint"}.get(args.command, args.command.replace("-", "_"))
    return import_module(f"vitas_ds.tools.{module}").run(args)


def run_completion(args: argparse.Namespace) -> int:
    """Print the script with which a shell completes commands."""
    from vitas_ds.tools import completion

    print(completion.script(args.shell, {name: command.arguments for name, command in COMMANDS.items()}), end="")
    return 0


def runner_of(command: str) -> Callable[[argparse.Namespace], int]:
    """Return the function that runs a command."""
    if command in STAGES:
        return run_report if command == "report" else run_stage
    if command == "elastic":
        return run_elastic
    return {"config": run_config, "completion": run_completion}.get(command, run_tool)


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit status.

    0 success, 1 a tool found a problem, 2 user error, 69 a rank or node was lost, 74 the disk failed or is full, 75 a
    stage was stopped on request (also by Ctrl-C), 130 Ctrl-C in a tool. A bug raises its error. A stage resumes when it
    is started again. A process whose ranks failed does not return: it ends with the status.
    """
    _open_closed_streams()
    if argv is None:
        _use_utf8()
    top = parser()
    words = sys.argv[1:] if argv is None else argv
    args = parse(top, [word for word in words if not word.startswith("--local_rank=")])  # deepspeed adds it
    if args.version:
        from vitas_ds import __version__

        print(__version__)
        return 0
    if args.command is None:
        top.print_help()
        return 2
    warnings.showwarning = _show_warning
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # its warnings about a missing home folder
    if args.command not in STAGES:
        return run(args)
    if argv is None:  # the command line of a process, not a call
        supervisor.supervise(args.command)
    with preemption.leave_on_signals():
        status = run(args)
    if status and supervisor.active():
        sys.stdout.flush()
        os._exit(status)  # torch's finalizers might wait for the other ranks
    return status


def _open_closed_streams() -> None:
    """Open the null device in place of closed standard streams (``2>&-``): the next file would get their number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def _use_utf8() -> None:
    """Use UTF-8 for files, file names and output in every locale, and print any file name."""
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONUTF8": "1"})
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def run(args: argparse.Namespace) -> int:
    """Run a parsed command; print an error as one line and return the exit status."""
    try:
        _check_current_folder()
        status = runner_of(args.command)(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of stdout has exited, as in `| head`
        _discard_output()
        return 1
    except (Exception, KeyboardInterrupt) as error:
        line, status = _outcome(error)
        _discard_output()
        if line:
            console.print_once(shorten(f"vitas {args.command}: {line}"))
        return status
    finally:
        if lock := sys.modules.get("vitas_ds.run.lock"):
            lock.release()


def _check_current_folder() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the current folder has been removed; change to another one with cd") from None


def _discard_output() -> None:
    """Discard output that cannot be written: Python would print another error when it flushes stdout at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _outcome(error: BaseException) -> tuple[str, int]:
    """Return the line to print and the exit status; re-raise the error if it is a bug."""
    in_torch = isinstance(error, RuntimeError) and "torch" in sys.modules
    if in_torch and import_module("vitas_ds.distributed.comm").is_peer_failure(error):  # not seen by the watchdog
        return "another rank ended; start the stage again to resume", RankLost.STATUS
    found = outcome(error)
    if found is None:
        raise error
    return found


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    file: TextIO | None = None, line: str | None = None,
) -> None:  # fmt: skip
    """Print a warning as one line, on rank 0. Of other libraries, only plain ``UserWarning`` are printed."""
    if console.is_main() and (str(Path(__file__).parent) in filename or category is UserWarning):
        print(shorten(f"warning: {message}"), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
