"""The documents are correct: links, commands, messages and generated parts.

References: the files of the checkout, the command-line parser, the sources, and the configuration.
"""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from vitas_ds import config
from vitas_ds.__main__ import parser
from vitas_ds.arch.hand_scaled import hand_scaled
from vitas_ds.config.parse import parse_value
from vitas_ds.recipe import load
from vitas_ds.stages import validate
from vitas_ds.stages.elastic import long_words
from vitas_ds.tools import document

PAGES = sorted(path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))
BLOCK = re.compile(r"^[ ]*```(\w*)\n(.*?)^[ ]*```", re.DOTALL | re.MULTILINE)
IDS = [path.name for path in PAGES]


def prose(text: str) -> str:
    return BLOCK.sub("", text)


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub creates for the headings of a page."""
    heads = re.findall(r"^#+ (.+)$", prose(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_inside_the_repository(page):
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())) + re.findall(r'src="([^"]+)"', page.read_text())
    for link in found:
        if re.match(r"https?://|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}: no such heading"


def test_badges_show_existing_workflows():
    """GitHub resolves ``../../actions/workflows/NAME`` from a page at the root of the repository."""
    links = re.findall(
        r"^\[[\w-]+\]: \.\./\.\./actions/workflows/([\w.]+)", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert links and all((ROOT / ".github" / "workflows" / name).is_file() for name in links)


def lines_of(page: Path) -> list[str]:
    """Return the lines of the shell blocks, and the commands of this project in backquotes."""
    text = page.read_text()
    lines = [line for kind, block in BLOCK.findall(text) if kind in ("bash", "sh", "console")
             for line in block.replace("\\\n", " ").splitlines()]  # fmt: skip
    inline = re.findall(
        r"`((?:python -m vitas_ds|deepspeed --module vitas_ds|vitas|launch/[^\s`]+) [^`]+)`", prose(text)
    )
    return lines + inline


def commands_in(page: Path) -> Iterator[list[str]]:
    """Yield the words of each line of shell code, with variables of the page replaced."""
    variables: dict[str, str] = {}
    for line in lines_of(page):
        if match := re.match(r'(\w+)="([^"]*)"$', line.strip()):
            variables[match[1]] = match[2]
        for name, value in variables.items():
            line = line.replace(f"${name}", value)
        yield [word for word in shlex.split(line, comments=True) if word != "..."]


def commands(page: Path) -> list[list[str]]:
    """Return the arguments of each vitas_ds command, split like in a shell."""
    found = []
    for words in commands_in(page):
        start = next((i for i, word in enumerate(words) if word in ("vitas_ds", "vitas") and
                      (i == 0 or words[i - 1] in ("-m", "--module"))), None)  # fmt: skip
        if start is not None:
            found.append(words[start + 1 :])
    return found


@pytest.fixture
def example_files(tmp_path, monkeypatch):
    """Write the YAML files of the pages into the current folder, and the spec of a report."""
    for page in PAGES:
        for kind, block in BLOCK.findall(page.read_text()):
            if kind == "yaml" and (name := re.match(r"# (\S+\.yaml)\n", block)):
                (tmp_path / name[1]).write_text(block)
    config = load("quickstart", [])
    by_hand = tmp_path / "runs" / "quickstart" / "report" / "hand_scaled.json"
    by_hand.parent.mkdir(parents=True)
    by_hand.write_text(json.dumps(hand_scaled(config.space, config.search.budget, 14).to_dict()))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_resolve(page, example_files):
    """Parse each command and load its recipe with its overrides. Words in UPPER CASE are placeholders."""
    for words in commands(page):
        if not words or words[0].isupper():
            continue
        args = parser().parse_args(words)
        if (getattr(args, "recipe", None) or "RECIPE").isupper():
            continue
        recipes = [args.recipe, *(word for word in args.overrides if "=" not in word)]
        assert len(recipes) == 1 or args.command == "report", words
        for recipe in recipes:
            if recipe.startswith("runs/"):  # no such run here: the overrides must fit any recipe
                recipe = "quickstart"
            if args.command != "report" or recipe != "quickstart":
                settings = long_words(args.overrides) if args.command == "elastic" else args.overrides
                resolved = load(recipe, [word for word in settings if "=" in word and word.isascii()])
                if args.command in ("config", "train-supernet", "search", "retrain", "evaluate"):
                    validate.check(resolved, "config", 1)  # the checks of a start, except those of files


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_scripts_exist_and_their_recipes_resolve(page, example_files):
    for words in commands_in(page):
        start = next((i for i, word in enumerate(words) if re.match(r"launch/\w+\.\w+$", word)), None)
        if start is None:
            continue
        assert (ROOT / words[start]).is_file(), words
        if words[start].removeprefix("launch/") not in (
            "single_node.sh",
            "multi_node.sh",
            "torchrun.sh",
            "slurm.sbatch",
            "docker.sh",
        ):
            continue
        rest = iter(words[start + 1 :])
        plain = [
            word for word in rest if not (word.startswith("-") and (word in ("--dry-run", "--redo") or next(rest)))
        ]
        if not plain[0].isupper():
            load(plain[0], plain[1:])


def test_pages_contain_commands():
    counts = {page.name: len(commands(page)) for page in PAGES}
    assert counts["README.md"] >= 6 and counts["manual.md"] >= 12 and counts["reproduce.md"] >= 6


def strings(tree: ast.AST) -> list[str]:
    """Return every string of a source file, with ``...`` in place of the formatted values."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "..." for part in node.values]
            found.append("".join(parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            found.append("".join(strings(node.left)[:1] + strings(node.right)[:1]))
    return found


def test_messages_of_the_manual_exist_in_the_code():
    """Some string of the sources contains, in order, all parts between the dots of a message."""
    sources = [text for path in (ROOT / "vitas_ds").rglob("*.py") for text in strings(ast.parse(path.read_text()))]
    table = (ROOT / "docs" / "manual.md").read_text().partition("## Troubleshooting")[2]
    messages = re.findall(r"^\| `(.+?)` \|", table, re.MULTILINE)
    assert len(messages) > 15
    for message in messages:
        pieces = [re.escape(piece) for piece in message.split("...") if piece.strip()]
        assert any(re.search(".*".join(pieces), text, re.DOTALL) for text in sources), message


def test_generated_parts_are_up_to_date():
    stale = [path.name for path, text in document.files().items() if path.read_text() != text]
    assert stale == [], "python -m vitas_ds.tools.document"


def test_every_key_is_documented_once_with_type_and_default():
    """Read keys and defaults back from the page and compare them with the configuration."""
    text = (ROOT / "docs" / "configuration.md").read_text()
    keys = set()
    for part in text.split("\n## ")[1:]:
        names, _, table = part.partition("\n")
        rows = re.findall(r"^\| `(\w+)` \| .+? \| `(.*?)` \| \S", table, re.MULTILINE)
        for section in names.split(" and "):
            for key, _ in rows:
                assert f"{section}.{key}" not in keys
                keys.add(f"{section}.{key}")
            default = config.Config()
            for name in section.split("."):
                default = getattr(default, name)
            for key, value in rows:
                expected = _plain(getattr(default, key))
                numeric = isinstance(expected, float | list) and expected
                got = parse_value(value, key.split("."), key)
                assert got == (pytest.approx(expected, rel=1e-5) if numeric else expected), (section, key)
    assert keys == set(_leaves(config.Config().model_dump(mode="json")))


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def _leaves(value, name=""):
    if not isinstance(value, dict):
        yield name
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{name}.{key}" if name else key)


def test_costs_by_hand():
    """DeiT-S: 4.599G MACs x 6 x 1,281,167 images x 300 epochs at 20 TFLOP/s."""
    assert document.training_hours(4.599e9, 1_281_167, 300, 1) == pytest.approx(147.3, abs=0.1)
    row = next(line for line in document.costs().splitlines() if line.startswith("| deit-s"))
    assert "**147**" in row and "79.8 %" in row and row.count(" - ") == 2
