"""The command line: one subcommand a stage or tool. Heavy libraries are imported by the command that needs them."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import TextIO

from vitas_ds.distributed import console, launcher
from vitas_ds.errors import Preempted, RankLost, UserError

STAGES = {
    "train-supernet": "train the weight-sharing supernet, one sampled net a step",
    "search": "search the best nets inside a budget with the supernet's weights",
    "retrain": "train one net from scratch (the search's best, a published one, or a spec.json)",
    "evaluate": "top-1 and top-5 accuracy on the validation images",
    "export": "write the trained net as safetensors, spec.json and a model card",
    "report": "write one HTML page about a run, or about two, and print the results",
}


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="vitas", description="Vision transformer architecture search: supernet, search, retrain.",
        epilog="A stage started again on the same run goes on where it stopped. Recipes: vitas_ds/recipes/.",
    )  # fmt: skip
    top.add_argument("--version", action="store_true", help="print the version and leave")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    for name, text in STAGES.items():
        stage = commands.add_parser(name, help=text, description=text)
        add_recipe(stage)
        if name in ("train-supernet", "retrain"):
            stage.add_argument(
                "--replay", nargs="?", const="", metavar="FILE",
                help="compute a step that diverged again (divergence.json of the run, or FILE) and say where it breaks",
            )  # fmt: skip
    report = commands.choices["report"]
    report.epilog = "RECIPE may be a run's folder or name instead; with a second run after it, the two are compared."
    report.add_argument("--to-wandb", action="store_true", help="send the run's whole record to W&B, as new runs")
    config = commands.add_parser("config", help="check a recipe and print the resolved run, starting nothing")
    add_recipe(config)
    config.add_argument(
        "--world-size", type=int, metavar="N", help="check it for N ranks, and estimate the memory of a GPU"
    )
    add_recipe(commands.add_parser("space", help="size, smallest and largest net of a recipe's space"))
    add_tools(commands)
    return top


def _count(word: str) -> int:
    """A whole number of 0 or more."""
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word}: must be a whole number of 0 or more")
    return int(word)


def add_recipe(command: argparse.ArgumentParser) -> None:
    """Arguments of everything that takes a recipe."""
    command.add_argument("recipe", help="name of a packaged recipe, or a YAML file")
    command.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes to the recipe")


def add_tools(commands: argparse._SubParsersAction) -> None:
    """Tools that need no recipe."""
    cost = commands.add_parser("cost", help="MACs, ViTAS FLOPs, parameters and memory of a net")
    cost.add_argument("net", help="a published net (vitas-a ... vitas-f, deit-ti, deit-s) or a spec.json")
    cost.add_argument("more", nargs="*", metavar="net", help="further nets, to compare")
    cost.add_argument("--json", action="store_true", help="one JSON object, for a program")
    cost.add_argument("--layers", action="store_true", help="a row for each layer")
    cost.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the nets, layer by layer")
    load = commands.add_parser("import", help="a checkpoint of the first release -> an exported model")
    load.add_argument("--net", required=True, help="vitas-a, vitas-b, vitas-c, vitas-e or vitas-f")
    load.add_argument("--checkpoint", required=True, type=Path, metavar="FILE.pth.tar")
    load.add_argument("--out", required=True, type=Path, metavar="DIR")
    whole = commands.add_parser("consolidate", help="a training checkpoint of any ZeRO stage -> one safetensors file")
    whole.add_argument("checkpoint", type=Path, help="a checkpoint, or a folder of them, of which the newest whole one")
    whole.add_argument("--out", required=True, type=Path, metavar="FILE.safetensors")
    whole.add_argument("--best", action="store_true", help="of a folder, the checkpoint of the lowest loss")
    whole.add_argument("--ema", action="store_true", help="the averaged weights")
    predict = commands.add_parser("predict", help="name what images show, with an exported model")
    predict.add_argument("model", type=Path, help="folder of an exported model, or an .onnx file in one")
    predict.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image file")
    predict.add_argument("--onnx", action="store_true", help="run the folder's model.onnx with onnxruntime, on the CPU")
    predict.add_argument("--top", type=_count, default=5, metavar="N", help="classes named for an image (5)")
    predict.add_argument("--json", action="store_true", help="a JSON array, for a program")
    scan = commands.add_parser("scan", help="name every unreadable image of a folder; exit status 1 if there is one")
    scan.add_argument("data", type=Path, help="folder of images")
    scan.add_argument("--write", type=Path, metavar="FILE", help="write the list that data.exclude reads")
    scan.add_argument("--threads", type=_count, default=0, help="0: one a core")
    scan.add_argument("--decode", action="store_true", help="decode every image: slower, and finds more damage")
    commands.add_parser("doctor", help="what this machine has and lacks for each stage")


def run_stage(args: argparse.Namespace) -> int:
    """Run one stage of a recipe."""
    from vitas_ds.recipe import load
    from vitas_ds.stages import validate

    if args.command == "report":
        return run_report(args)
    resolved = load(args.recipe, args.overrides)
    validate.check(resolved, args.command, launcher.read().world_size)
    stage = import_module(f"vitas_ds.stages.{args.command.replace('-', '_')}")
    if getattr(args, "replay", None) is None:
        stage.run(resolved)
    else:
        stage.again(resolved, args.replay)
    return 0


def run_report(args: argparse.Namespace) -> int:
    """Report a run, or compare two: a word that sets nothing names the second."""
    from vitas_ds.stages import report

    overrides = [word for word in args.overrides if "=" in word]
    more = [word for word in args.overrides if "=" not in word]
    if len(more) > 1 or (more and args.to_wandb):
        reason = "--to-wandb takes one run" if args.to_wandb else "two runs are compared, no more"
        raise UserError(f"{more[-1]}: {reason}")
    if args.to_wandb and "tracking.wandb=disabled" in overrides:
        raise UserError("tracking.wandb=disabled: excludes --to-wandb")
    found = [report.find(word, overrides) for word in (args.recipe, *more)]
    if more:
        report.compare(*found)
    else:
        report.run(found[0], args.to_wandb)
    return 0


def run_config(args: argparse.Namespace) -> int:
    """Print the resolved run of a recipe, as YAML; what it would be on N ranks, in YAML's comments."""
    from vitas_ds.config import dump
    from vitas_ds.recipe import load
    from vitas_ds.stages import validate

    if args.world_size is not None and args.world_size < 1:
        raise UserError(f"--world-size: must be 1 or more (given: {args.world_size})")
    resolved = load(args.recipe, args.overrides)
    validate.check(resolved, "config", args.world_size or 1)
    comments = []
    if args.world_size is not None:
        from vitas_ds.engine import memory

        comments = [f"# {line}".rstrip() for line in memory.report_lines(resolved, args.world_size)]
    print(dump(resolved) + "".join(f"{line}\n" for line in comments), end="")
    return 0


def run_tool(args: argparse.Namespace) -> int:
    """Run a tool; each lives in ``vitas_ds/tools/NAME.py`` and takes the parsed arguments."""
    name = {"import": "import_checkpoint"}.get(args.command, args.command)
    return import_module(f"vitas_ds.tools.{name}").run(args)


def parse(top: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """The arguments; ``section.key=value`` may also come after an option, which argparse does not see."""
    args, rest = top.parse_known_args(words)
    strays = [word for word in rest if word.startswith("-") or "=" not in word]
    if strays or (rest and not hasattr(args, "overrides")):
        top.error(f"unrecognized arguments: {' '.join(strays or rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns its exit status.

    0 done, 1 a finding, 2 the user's mistake, 69 a rank or node was lost, 75 told to stop (both: start it again).
    """
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
    warnings.showwarning = _one_line
    runner = run_stage if args.command in STAGES else run_config if args.command == "config" else run_tool
    try:
        return runner(args)
    except UserError as error:
        console.print_once(f"vitas {args.command}: {error}")
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "vitas_ds":
            raise
        console.print_once(
            f"vitas {args.command}: {error.name} is not installed; python -m vitas_ds doctor says what is missing"
        )
        return 2
    except Preempted as error:
        console.print_once(f"vitas {args.command}: {error}")
        return 75
    except RankLost:
        return RankLost.STATUS
    except KeyboardInterrupt:
        console.print_once(f"vitas {args.command}: interrupted; start it again to go on")
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    file: TextIO | None = None, line: str | None = None,
) -> None:  # fmt: skip
    """A warning of this project is a line on rank 0; those of libraries are theirs to give in their own form."""
    if console.is_main() and (str(Path(__file__).parent) in filename or category is UserWarning):
        print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
