"""The commands of the command line: their purpose, arguments and examples.

Importing this module does not import torch.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitas_ds.errors import shorten
from vitas_ds.errors.paths import clean_path

Argument = tuple[str, dict[str, Any]]  # name, and the keyword arguments of add_argument


def count(text: str) -> int:
    """Parse a whole number, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number, 0 or more")
    return int(text)


def filled(text: str) -> str:
    """Refuse an empty text, which is the value of a variable that is not set; as a path, it is the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("empty; give a path or name")
    return text


def path(text: str) -> Path:
    """Parse a path; replace ``~`` and environment variables, which shells leave after ``=``."""
    try:
        return Path(filled(clean_path(text)))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{shorten(text, 100)}: {error}") from None


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        purpose: One line for the help.
        example: Its arguments in an example.
        output: Where the results go.
        arguments: Its arguments.
        launcher: Launcher that starts several ranks of it; "" if there is always one.
    """

    purpose: str
    example: str
    output: str
    arguments: tuple[Argument, ...]
    launcher: str = ""

    @property
    def examples(self) -> str:
        """The example, and how several ranks of the command start."""
        several = (
            f"\n  {self.launcher} vitas_ds {self.example.split()[0]} ...  # several ranks" if self.launcher else ""
        )
        return f"vitas {self.example}{several}"


RECIPE: tuple[Argument, ...] = (
    ("recipe", {"help": "name of a packaged recipe, a YAML file, or the folder of a run, which has its settings"}),
    ("overrides", {"nargs": "*", "metavar": "section.key=value", "help": "override values of the recipe"}),
)
FORCE: Argument = ("--force", {"action": "store_true", "help": "replace an existing file or folder"})
REDO: Argument = (
    "--redo",
    {
        "action": "store_true",
        "help": "if its settings or inputs have changed: move the old results aside, run the stage again",
    },
)
STAGE: tuple[Argument, ...] = (*RECIPE, REDO)
REPLAY: tuple[Argument, ...] = (
    ("--replay", {
        "nargs": "?", "const": "", "metavar": "FILE", "type": str,
        "help": "recompute the first step that diverged, from the run's divergence.json or FILE, and print what fails",
    }),
)  # fmt: skip
STAGES = {
    "train-supernet": Command(
        "train the weight-sharing supernet, one sampled subnet per step",
        "train-supernet quickstart", "runs/NAME/supernet/",
        STAGE + REPLAY, "deepspeed --module",
    ),
    "search": Command(
        "search for the best subnets within a budget, scored with the supernet's weights",
        "search runs/quickstart run.name=small search.checkpoint=runs/quickstart 'search.macs=[0.5e6, 0.8e6]'",
        "runs/NAME/search/ (best.json, pareto.json, ledger.jsonl)", STAGE, "deepspeed --module",
    ),
    "retrain": Command(
        "train one network: the search's best, a published one, or a spec.json",
        "retrain runs/quickstart run.name=second 'retrain.spec=runs/quickstart:search:best[2]'",
        "runs/NAME/retrain/model/",
        STAGE + REPLAY, "deepspeed --module",
    ),
    "evaluate": Command(
        "measure top-1 and top-5 accuracy on the validation images",
        "evaluate runs/quickstart data.val=data/digits/val", "the console and runs/NAME/summary.json",
        STAGE, "deepspeed --module",
    ),
    "export": Command(
        "write the trained network as safetensors, spec.json and a model card; optionally for timm, ONNX, torch.export",
        "export runs/quickstart export.onnx=true", "runs/NAME/export/",
        (
            *STAGE,
            ("--push-to-hub", {"metavar": "USER/NAME", "help": "also send the folder to the Hugging Face hub"}),
            ("--private", {"action": "store_true", "help": "if the hub has no such model, create it as a private one"}),
        ),
    ),
    "report": Command(
        "write an HTML page about a run, or one that compares several, and print the results",
        "report runs/quickstart", "runs/NAME/report/",
        (
            ("recipe", {"help": "folder or name of a run, or its recipe"}),
            ("overrides", {"nargs": "*", "metavar": "section.key=value",
                           "help": "override values of the recipe; or more runs to compare with"}),
            ("--to-wandb", {"action": "store_true", "help": "also send the metrics to W&B, as one new W&B run"}),
        ),
    ),
}  # fmt: skip
ELASTIC = Command(
    "run all stages from a pretrained ViT to exported networks for several budgets; start it again to continue",
    "elastic elastic_deit_small model=models/deit_small data.train=DIR data.val=DIR 'search.budgets=[2.4G, 3.2G]'",
    "runs/NAME/, and runs/NAME-budget0/export/, runs/NAME-budget1/export/, ...",
    (
        RECIPE[0],
        ("overrides", {"nargs": "*", "metavar": "section.key=value",
                       "help": "override values of the recipe; also model=DIR, or model=timm:NAME weights=FILE"}),
        ("--launcher", {"metavar": "TEXT", "help": "launcher of the stages: 'deepspeed --num_gpus 8 --module'"}),
        ("--direct", {"action": "store_true", "help": "export the networks with inherited weights, not fine-tuned"}),
        REDO,
    ),
)  # fmt: skip
TOOLS = {
    "elastic": ELASTIC,
    "config": Command(
        "check a recipe and print the resolved configuration without starting anything",
        "config quickstart --world-size 8", "the console",
        (
            ("recipe", RECIPE[0][1] | {"nargs": "?"}), *RECIPE[1:],
            ("--world-size", {"type": int, "metavar": "N",
                              "help": "check for N ranks, and estimate the memory of a GPU"}),
            ("--schema", {"action": "store_true", "help": "print the JSON schema of recipes, for editors"}),
        ),
    ),
    "space": Command(
        "print the size, the smallest and the largest network of a recipe's search space",
        "space quickstart", "the console", RECIPE,
    ),
    "cost": Command(
        "print MACs, ViTAS FLOPs, parameters and memory of networks",
        "cost vitas-c deit-s --layers", "the console",
        (
            ("net", {"help": "a published network (vitas-a ... vitas-f, deit-ti, deit-s) or a spec.json"}),
            ("more", {"nargs": "*", "metavar": "net", "help": "more networks, to compare"}),
            ("--json", {"action": "store_true", "help": "print one JSON object"}),
            ("--layers", {"action": "store_true", "help": "print a row per layer"}),
            ("--plot", {"type": path, "metavar": "FILE.png", "help": "draw the networks layer by layer"}),
            FORCE,
        ),
    ),
    "import": Command(
        "convert pretrained weights of timm, or of the first release, to an exported model",
        "import --net timm:deit_small_patch16_224.fb_in1k --checkpoint model.safetensors --out models/deit_small",
        "the folder DIR",
        (
            ("--net", {"required": True, "help": "timm:NAME, vitas-a, vitas-b, vitas-c, vitas-e or vitas-f"}),
            ("--checkpoint", {"type": path, "metavar": "FILE",
                              "help": "state dict: .safetensors, or a file of torch.save"}),
            ("--out", {"required": True, "type": path, "metavar": "DIR"}),
            FORCE,
            ("--classes", {"type": count, "metavar": "N",
                           "help": "timm: replace the classifier by a new one of N classes, to be trained"}),
            ("--image-size", {"type": count, "metavar": "PIXELS",
                              "help": "timm: interpolate the position embedding for another image size"}),
            ("--download", {"action": "store_true", "help": "timm: download the weights of NAME through timm"}),
        ),
    ),
    "importance": Command(
        "measure how important every head, channel and layer of an exported model is, with a plot",
        "importance runs/quickstart/export --data data/digits/train --out importance.json", "FILE.json and FILE.png",
        (
            ("model", {"type": path, "help": "folder of an exported model"}),
            ("--data", {"required": True, "type": path, "metavar": "DIR", "help": "training images"}),
            ("--out", {"required": True, "type": path, "metavar": "FILE.json"}),
            ("--images", {"type": count, "default": 1024, "metavar": "N", "help": "number of images (default: 1024)"}),
            ("--loss", {"choices": ("labels", "views"), "default": "labels",
                        "help": "cross-entropy, or the distance between two views of an image, which needs no labels"}),
            ("--seed", {"type": count, "default": 0, "metavar": "N", "help": "draws the images (default: 0)"}),
        ),
    ),
    "reorder": Command(
        "sort heads, channels and MLP units of an exported model by importance; its logits do not change",
        "reorder runs/quickstart/export --importance importance.json --out sorted",
        "the folder DIR, with the permutations and their inverses in order.json",
        (
            ("model", {"type": path, "help": "folder of an exported model"}),
            ("--importance", {"required": True, "type": path, "metavar": "FILE.json", "help": "from importance"}),
            ("--out", {"required": True, "type": path, "metavar": "DIR"}),
            FORCE,
        ),
    ),
    "consolidate": Command(
        "convert a training checkpoint of any ZeRO stage to one safetensors file",
        "consolidate runs/quickstart/supernet/checkpoints --best --out supernet.safetensors",
        "the file FILE.safetensors",
        (
            ("checkpoint", {"type": path, "help": "a checkpoint, or a folder of checkpoints: its newest intact one"}),
            ("--out", {"required": True, "type": path, "metavar": "FILE.safetensors"}),
            ("--best", {"action": "store_true", "help": "choose the best one: highest accuracy, else lowest loss"}),
            ("--ema", {"action": "store_true", "help": "use the EMA weights"}),
            FORCE,
        ),
    ),
    "predict": Command(
        "classify images with an exported model",
        "predict runs/quickstart/export data/digits/val/3/1503.jpg --top 3", "the console",
        (
            ("model", {"type": path, "help": "folder of an exported model, an .onnx file in one, or hf://USER/NAME"}),
            ("images", {"nargs": "+", "type": path, "metavar": "IMAGE", "help": "image file"}),
            ("--onnx", {"action": "store_true", "help": "run model.onnx of the folder with onnxruntime, on the CPU"}),
            ("--top", {"type": count, "default": 5, "metavar": "N", "help": "classes per image (default: 5)"}),
            ("--json", {"action": "store_true", "help": "print a JSON array"}),
        ),
    ),
    "scan": Command(
        "list the unreadable images of a folder; exit status 1 if there are any",
        "scan data/digits/train --write unreadable.txt", "the console, and FILE",
        (
            ("data", {"type": path, "help": "folder of images"}),
            ("--write", {"type": path, "metavar": "FILE", "help": "write the list that data.exclude reads"}),
            ("--threads", {"type": count, "default": 0, "help": "number of threads; 0: one per core"}),
            ("--decode", {"action": "store_true", "help": "decode every image: slower, but finds more damage"}),
            FORCE,
        ),
    ),
    "index": Command(
        "list the images of a folder once, so that starts on millions of images need not list it",
        "index data/digits/train", "the file DATA/index.vitas",
        (("data", {"type": path, "metavar": "DATA", "help": "folder of images, one folder per class"}),),
    ),
    "resize-data": Command(
        "shrink images in advance, which makes decoding faster; start it again to continue",
        "resize-data data/digits/train data/small/train --short-side 14",
        "the folder DEST, with its settings in data.json",
        (
            ("source", {"type": path, "metavar": "SOURCE", "help": "folder of images or of tar shards"}),
            ("dest", {"type": path, "metavar": "DEST", "help": "new folder"}),
            ("--short-side", {"type": count, "required": True, "metavar": "PIXELS",
                              "help": "shorter side of larger images; smaller ones are copied"}),
            ("--quality", {"type": count, "default": 90, "help": "JPEG quality, 1 to 100 (default: 90)"}),
            ("--format", {"choices": ("folder", "shards"), "default": "folder", "help": "files, or tar shards"}),
            ("--workers", {"type": count, "default": 0, "metavar": "N", "help": "processes; 0: one per core"}),
        ),
    ),
    "latency": Command(
        "measure networks of a recipe's search space, as a table for search.latency_table",
        "latency quickstart --nets 12 --out phone.jsonl", "the file FILE.jsonl",
        (
            *RECIPE,
            ("--out", {"required": True, "type": path, "metavar": "FILE.jsonl",
                       "help": "append to this file; networks that it contains are not measured again"}),
            ("--nets", {"type": count, "metavar": "N", "help": "number of networks (default: search.latency_nets)"}),
        ),
    ),
    "runs": Command(
        "list the runs with stage, progress, results and size on disk", "runs", "the console",
        (("folder", {"nargs": "?", "metavar": "DIR", "help": "folder of the runs (default: runs)"}),),
    ),
    "status": Command(
        "print what a run is doing, its results, and the command to resume it", "status runs/quickstart", "the console",
        (
            ("run", {"metavar": "RUN", "help": "folder or name of a run, or its recipe"}),
            ("--follow", {"action": "store_true", "help": "print a line per record until the stage ends"}),
        ),
    ),
    "clean": Command(
        "remove the files of a run that no later stage needs; asks first",
        "clean runs/quickstart --keep best", "the console",
        (
            ("run", {"metavar": "RUN", "help": "folder or name of a run, or its recipe"}),
            ("--keep", {"choices": ("best",), "help": "keep the best checkpoint of each training"}),
            ("--yes", {"action": "store_true", "help": "do not ask"}),
        ),
    ),
    "completion": Command(
        "print a script that completes commands, options, recipes, runs and settings in a shell",
        "completion bash", "the console; the shell reads it with source <(vitas completion bash)",
        (("shell", {"choices": ("bash", "zsh"), "help": "name of the shell"}),),
    ),
    "doctor": Command(
        "check what this machine has and what is missing for each stage", "doctor", "the console", (),
    ),
}  # fmt: skip
COMMANDS = STAGES | TOOLS
