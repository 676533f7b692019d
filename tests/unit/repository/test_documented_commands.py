"""The commands and the Python code of the documents, and the commands of --help, run as written after the quickstart.

The quickstart is that of the manual, with fewer images and a shorter recipe. Commands that cannot run here have a
reason below; test_documentation.py parses them and checks their settings, test_launch.py starts the scripts with
--dry-run.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.helpers.digits import write_digits
from tests.helpers.launching import environment
from tests.helpers.paths import ROOT
from tests.unit.repository.test_documentation import BLOCK, commands_in
from vitas_ds.commands import COMMANDS
from vitas_ds.recipe import RECIPES

REASONS = {
    r"^(?!vitas (config|space) ).*(vitas_1g|/data/|retrain_deit|models/deit_small|timm:)": "ImageNet, or your images",
    r"^(?!vitas (config|space) ).*cifar": "needs CIFAR-10",
    r"^launch/|^bash launch/slurm": "starts all stages, or jobs on GPUs and nodes; see test_launch.py",
    r"\b(STAGE|RECIPE|RUN|DIR|OUT|FOLDER|NAME|ME|NET)\b": "a placeholder in capitals",
    r"--to-wandb|--push-to-hub|^hf |^wandb ": "needs an account",
    r"^pip |^source ": "changes the environment",
    r"^python (examples|launch)/": "see test_examples.py and the tests of launch/",
    r"^tensorboard": "a server",
    r"^vitas doctor": "seconds to minutes; see test_doctor.py",
    r"^deepspeed --module vitas_ds( [a-z-]+ \.\.\.)?$": "the one before it, under a launcher; see tests/distributed",
}
HEAVY = r"export\.onnx|^vitas latency"
PAGES = (ROOT / "README.md", ROOT / "docs" / "manual.md")
SHORT = {
    "supernet": {"epochs": 3, "warmup_epochs": 0, "batch_size": 16},
    "retrain": {"epochs": 2, "warmup_epochs": 0},
    "search": {"population": 6, "generations": 2},
    "data": {"search_per_class": 8},
}
RUN = """
import contextlib, io, json, shlex, sys
from pathlib import Path
import vitas_ds.recipe
vitas_ds.recipe.RECIPES = Path("recipes").absolute()
from vitas_ds.__main__ import main

for command in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(shlex.split(command)[1:])
        except SystemExit as error:
            status = error.code
    print(json.dumps([command, status, out.getvalue(), err.getvalue()]), flush=True)
"""


def all_commands() -> list[str]:
    """Return the commands of the pages and of --help, in their order, each once."""
    written = [shlex.join(words) for page in PAGES for words in commands_in(page) if words]
    shown = [line for command in COMMANDS.values() for line in command.examples.split("\n  ")]
    shown = [shlex.join(shlex.split(line, comments=True)) for line in shown]
    lines = [re.sub(r"^python -m vitas_ds\b", "vitas", line) for line in [*written, *shown]]
    return list(dict.fromkeys(line for line in lines if "=" not in line.split()[0]))


def reason_of(command: str) -> str | None:
    return next((pattern for pattern in REASONS if re.search(pattern, command)), None)


def to_run(heavy: bool) -> list[str]:
    return [line for line in all_commands() if not reason_of(line) and bool(re.search(HEAVY, line)) == heavy]


def python_code() -> str:
    """Return the Python blocks of the pages, with a pass of 28 x 28 images through the model of each."""
    blocks = [block for page in PAGES for kind, block in BLOCK.findall(page.read_text()) if kind == "python"]
    local = [block for block in blocks if "hf://" not in block]  # else from the hub; see test_hub.py
    assert len(local) == len(blocks) - 1 == 3
    return "import torch\n" + "".join(
        f"{block}\nassert model(torch.zeros(2, 3, 28, 28)).shape == (2, 10)\ndel model\n" for block in local
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with images, and recipes of which that of the quickstart is shorter."""
    folder = tmp_path / "checkout"
    digits = write_digits(folder / "data" / "digits")
    shutil.copy(next((digits / "val" / "3").iterdir()), digits / "val" / "3" / "1503.jpg")
    shutil.copytree(RECIPES, folder / "recipes")
    recipe = yaml.safe_load((RECIPES / "quickstart.yaml").read_text())
    recipe |= {section: recipe[section] | short for section, short in SHORT.items()}
    (folder / "recipes" / "quickstart.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def run(folder: Path, lines: list[str]) -> None:
    """Run commands one after another in one process; all must succeed."""
    env = environment(WANDB_MODE="disabled", PYTHONWARNINGS="ignore")
    lines = [line.replace("--keep best", "--keep best --yes") for line in lines]  # nobody answers here
    words = [sys.executable, "-c", RUN, json.dumps(lines)]
    done = subprocess.run(words, cwd=folder, env=env, text=True, capture_output=True, timeout=600)
    rows = [json.loads(row) for row in done.stdout.splitlines()]
    failed = [row for row in rows if row[1] != 0]
    assert not failed and done.returncode == 0 and len(rows) == len(lines), (failed[:1], done.stderr[-3000:])


def test_every_command_runs_here_or_has_a_reason() -> None:
    lines = all_commands()
    assert {reason_of(line) for line in lines} == {None, *REASONS}  # no reason is left over
    assert all(line.startswith("vitas ") for line in lines if reason_of(line) is None)
    assert len(to_run(heavy=False)) > 30 and to_run(heavy=True)


@pytest.mark.slow
def test_commands_run_as_written(folder: Path) -> None:
    lines = to_run(heavy=False)
    assert [line.split()[1] for line in lines if line.endswith(" quickstart")][:4] == list(COMMANDS)[:4]
    run(folder, lines)
    words = [sys.executable, "-c", python_code()]
    done = subprocess.run(words, cwd=folder, env=environment(), text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.long
def test_heavy_commands_run_as_written(folder: Path) -> None:
    stages = ["vitas train-supernet quickstart", "vitas search quickstart", "vitas retrain quickstart"]
    run(folder, stages + to_run(heavy=True))
